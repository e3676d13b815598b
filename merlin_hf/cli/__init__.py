"""The command line, `merlin-hf`."""
