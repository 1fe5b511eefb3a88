"""The GPU backend, checked and timed: `python -m benchmarks.gpu --help`. What a search asks of one: `.schedule`."""
