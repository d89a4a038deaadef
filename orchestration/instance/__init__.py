"""Dagster's instance: home folder, storage, and the launch of runs.

In: settings. Out: a home folder for the start of every Dagster process. `orchestration/dagster.yaml` names the classes.
"""
