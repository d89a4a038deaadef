"""Evaluation of forecasts.

In: histories of recordings, candles or simulated days, and models. Out: losses, coverage and significance of models and
rivals on the same rows, as a table, as JSON, and as a report.
"""
