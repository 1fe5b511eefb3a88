"""Work that may never end, in processes of its own with limits of time and memory."""
