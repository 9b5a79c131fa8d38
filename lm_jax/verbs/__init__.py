"""The verbs of the command line, one module each, with `run(request)` that returns the exit code."""
