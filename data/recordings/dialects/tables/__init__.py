"""Tables with named columns: CSV, Parquet and JSON objects of every venue.

In: a header, or the keys of an object. Out: the columns of a trade, or the name of the column that is missing or that a
reader must not ignore.
"""
