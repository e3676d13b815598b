"""Attacks on the package: `make fuzz` runs each module here, which prints its counts and exits with 1 where it finds faults."""
