"""Bars: candles of every venue, and the bars of LEAN.

In: a file of bars, CSV, Parquet or JSON arrays. Out: bars in columns, oldest first, each known from its end on.
"""
