"""Benchmarks: `python -m benchmarks` runs all, `python -m benchmarks.<subject>` one; see README.md."""
