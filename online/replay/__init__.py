"""Replay a source in one process.

In: recordings, a speed, and the records of the source on the topic. Out: the due time of each trade, the right to
write the source, and how far the replay has come.
"""
