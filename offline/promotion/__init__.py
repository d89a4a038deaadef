"""Promotion and rollback of served models.

In: registered versions and the rows to judge them on. Out: moves of the alias `champion`, each an entry of the ledger.
"""
