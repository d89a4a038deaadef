"""Records on topics: their types, their bytes, and the Kafka clients that read and write them.

In: trades, feature rows, forecasts. Out: records, and the way back. No other folder of `data` uses Kafka.
"""
