"""Benchmarks: worker processes that repeat one workload, and a controller that times them in turns."""
