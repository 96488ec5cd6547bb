"""Faults of the operating system, switched on and off while the hub's processes run.

A small library is loaded into them before all others and answers some calls of the C library in its own
way. What it does is in a file that all processes map: they learn of it at once, forked or started anew.
"""
