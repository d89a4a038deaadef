"""Dagster's instance: its home folder, its storage, and the launch of runs.

In: settings. Out: what every Dagster process needs before it starts. `orchestration/dagster.yaml` names the classes.
"""
