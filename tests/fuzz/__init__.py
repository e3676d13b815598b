"""Attacks on the package: `make fuzz` runs each module, which prints its counts and exits with 1 on faults."""
