"""Texts about registered versions: a report with plots and a model card.

In: a candidate and the answers of its training. Out: artifacts of the version's run in MLflow.
"""
