"""The lineage graph: recordings to models.

In: the lake and the registry. Out: materializations with data versions, and checks.
"""
