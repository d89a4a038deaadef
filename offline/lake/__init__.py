"""Tables of Parquet objects, a partition for each product and UTC day, named by a manifest for each product.

In: Arrow batches. Out: whole objects, and manifests with notes and content hashes; a failed write changes no manifest.
"""
