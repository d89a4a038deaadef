"""Leak sentinels: tests whether a training knew the future.

In: rows, the trades behind some of the rows, and a trained model with its recipe. Out: verdicts, each with a name.
"""
