"""The service that runs every search, tree grown by hand and score in the same batches, and its clients."""
