"""Tests on real parts: broker, MLflow, Dagster, processes."""
