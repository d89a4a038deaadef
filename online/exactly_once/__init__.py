"""From trades to forecasts, exactly once: the transaction loop and the two stages of the forecaster.

In: records of `coinbase-trades`. Out: records of `features`, `predictions` and `trades-rejected`, and the offset up to
which the trades are done, all in one Kafka transaction.
"""
