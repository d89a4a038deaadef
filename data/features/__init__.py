"""Turn trades into feature rows: the compiled kernel and the windows of the streams.

In: batches of trades of any number of streams. Out: one feature row a trade, the same bytes online and offline.
"""
