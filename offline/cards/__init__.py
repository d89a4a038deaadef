"""Texts and pictures for people: report and model card of a registered version, small pictures of a day and a test.

In: a candidate and the answers of its training, the lake. Out: artifacts of the version's run in MLflow, PNG.
"""
