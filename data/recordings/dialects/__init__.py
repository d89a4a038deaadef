"""The dialects of recordings, one module a kind.

In: blocks of a file. Out: columns of texts or values, under the project's names.
"""
