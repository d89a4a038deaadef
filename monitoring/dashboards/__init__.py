"""Describe Grafana's dashboards as code.

In: the catalog of metrics, and the limits of the alerts in `monitoring/rules`. Out: JSON in
`monitoring/grafana/dashboards`, written by `python -m monitoring.dashboards`.
"""
