"""Scaling sweeps: one short training for each point of a product of layouts, and what they say together.

Nothing keeps a record of what is going on: a point is what its folder, its job and the results file tell, so that a sweep that was killed
at any moment goes on with what is missing.
"""
