"""Turn trades into feature rows and forecasts, each exactly once.

In: records of `coinbase-trades`. Out: records of `features` and `predictions`, in one transaction with the offsets.
"""
