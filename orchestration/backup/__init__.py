"""Backups of registry, ledger and lake, made while the stack runs.

In: MLflow's database and files, and the lake. Out: a folder with copies and their SHA-256, and the state restored.
"""
