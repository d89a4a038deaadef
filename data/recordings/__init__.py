"""Read recorded market data as trades or bars.

In: files of any known dialect, CSV, NDJSON, Parquet or zip. Out: columns in bounded memory, and each reject with its
file, line and reason.
"""
