"""Pure machines: objects that decide.

No clock, no lock, no await, no I/O and no global random in here. Time and randomness come in as arguments, decisions go
out as values. Whoever drives a machine holds the lock that guards it.
"""
