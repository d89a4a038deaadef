"""Trades to feature rows: the compiled kernel and its windows.

In: batches of trades of any number of streams. Out: one feature row a trade, the same bytes online and offline.
"""
