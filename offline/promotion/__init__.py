"""Which model serves.

In: registered versions and the rows to judge them on. Out: moves of the alias `champion`, each an entry of the ledger.
"""
