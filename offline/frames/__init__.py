"""Frames of pandas for notebooks and for drift reports: the rows that a version was trained on, and served rows.

In: the lake, or days of the simulator. Out: one row in each twelfth of a horizon, with forecasts and targets.
"""
