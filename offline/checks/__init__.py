"""Checks of the lake.

In: partitions, and what the forecaster published. Out: a certificate of equal rows, or what differs and where.
"""
