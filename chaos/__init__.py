"""An end-to-end checker: real hub processes under faults, held against what is true.

``record`` is what was seen, ``plan`` what a seed draws, ``invariants`` the judgement over a record: all three
are values and functions. ``client``, ``actors``, ``node``, ``faults`` and ``network`` do what the plan says;
``run`` puts a seed together, ``story`` tells of a violation, ``__main__`` is the command.
"""
