"""Evaluation of forecasts.

In: rows with targets, and models. Out: a table of losses and coverage, on the same rows for each model.
"""
