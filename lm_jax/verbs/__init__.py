"""The verbs of the command line, one file each: `run(request) -> exit code`."""
