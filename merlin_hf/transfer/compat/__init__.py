"""
Workarounds for faults of other packages.

Each module describes one fault, the versions that have it and where it is reported. It is deleted, with the lines that
call it, once no supported version has the fault.
"""
