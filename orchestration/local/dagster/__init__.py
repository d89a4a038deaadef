"""Dagster as a part of the local stack.

In: the stack's settings. Out: Dagster's home folder, the runs, and the first `volatility-ml`.
"""
