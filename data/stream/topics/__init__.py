"""The topics on a broker.

In: the contract of `data.stream.records`. Out: topics with the contract's partitions, retention and compaction.
"""
