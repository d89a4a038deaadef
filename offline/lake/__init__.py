"""Tables of Parquet objects, one partition a product and UTC day, named by one manifest a product.

In: Arrow batches. Out: whole objects, and manifests with notes and content hashes; a failed write changes no manifest.
"""
