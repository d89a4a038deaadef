"""Set up every long-running process: logs, signals and exit codes, metrics and their catalog.

In: settings, and the observed values of a process. Out: log lines on stderr, and `/metrics` for Prometheus.
"""
