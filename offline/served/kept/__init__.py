"""What the topics no longer hold, read from the lake as if a topic held it.

In: the records that the sink took into the lake, and the notes on the sources' beginnings. Out: blocks of records.
"""
