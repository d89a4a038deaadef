"""Dialects of recordings, one module for each kind.

In: blocks of a file. Out: columns of texts or values, under the project's names.
"""
