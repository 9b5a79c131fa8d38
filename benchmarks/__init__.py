"""Benchmarks: worker processes that repeat one piece of work, and a controller that times them in turns."""
