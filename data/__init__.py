"""Definitions of trades, features, targets and served models.

All other folders import `data`; `data` imports no other folder.
"""
