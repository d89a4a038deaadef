"""One source, written by one process.

In: recordings, a speed, and what the topic holds of the source. Out: when each trade is due, and the right to write it.
"""
