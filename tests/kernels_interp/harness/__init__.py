"""What makes Triton's interpreter a test bench: right bf16, fewer patches, checks of memory and order, byte counts."""
