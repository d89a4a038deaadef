"""Tables of Parquet files, one partition a product and UTC day.

In: Arrow batches. Out: whole files with notes and content hashes; a failed write leaves no file.
"""
