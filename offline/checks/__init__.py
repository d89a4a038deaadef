"""Checks of the lake.

In: partitions, and rows published by the forecaster. Out: faults, and a certificate of equal rows or the differences.
"""
