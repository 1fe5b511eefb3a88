"""Benchmarks of the GPU backend: `python -m benchmarks.gpu --help`. What it could reach: `benchmarks.gpu.roofline`."""
