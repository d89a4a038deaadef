"""Dagster as a part of the local stack.

In: the stack's settings. Out: its home folder, its runs, and the first `volatility-ml`.
"""
