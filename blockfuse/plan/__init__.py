"""What becomes one kernel, and how: units, footprints, choices, predicted cost.

Nothing here knows TVM. Files that begin with ``cpu`` or ``cuda`` hold a target's choices and rules.
"""
