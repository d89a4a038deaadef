"""Simulate a market, for use without recordings, and compare simulated trades with recorded trades.

In: a product, a UTC day and seeds. Out: the trades of the day, and the true volatility behind the trades.
"""
