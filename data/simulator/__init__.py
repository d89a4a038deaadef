"""A simulated market, for whoever has no recordings, and its comparison with real ones.

In: a product, a UTC day and seeds. Out: the trades of that day, and the true volatility behind them.
"""
