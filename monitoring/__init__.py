"""Observe the forecasts: live figures against what happened, for Prometheus.

In: the topics `predictions` and `figures`, and the registry. Out: `/metrics`.
"""
