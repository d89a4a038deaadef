"""What every long-running process needs: logs, signals and exit codes, metrics and their catalog.

In: settings, and the values that a process observes. Out: log lines on stderr, and `/metrics` for Prometheus.
"""
