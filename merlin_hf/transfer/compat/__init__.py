"""
Ways around faults of other packages, each in a module of its own that says which fault, in which versions, and where
it is reported.

A module is deleted, with the few lines that call it, once no supported version has the fault.
"""
