"""Observe the local stack with the programs that are on the machine: Prometheus, Alertmanager, Grafana.

In: the settings of the stack, `monitoring/`. Out: configuration under VAR_DIR, and parts of the stack.
"""
