"""Tables of Parquet files, one partition a product and UTC day.

In: Arrow batches. Out: files that are whole, with notes and content hashes, or not there.
"""
