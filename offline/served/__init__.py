"""The records of the topics in the lake, exactly once.

In: the topics, up to their ends. Out: files named by offset range, a manifest for each topic, frames for notebooks and
for drift reports, and recordings for the table `trades`.
"""
