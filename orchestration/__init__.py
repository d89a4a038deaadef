"""Serve the project to Dagster: wire the other folders and compute nothing. No folder imports `orchestration`."""
