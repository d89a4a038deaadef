"""Drift of a product's rows and of the loss of its forecasts, hour by hour, against the champion's training rows.

In: rows of the lake as columns. Out: a calibration, verdicts of hours, a report by Evidently. No Kafka, no lake.
"""
