"""Recordings where they lie: in folders, and below prefixes of an object store.

In: the folders and prefixes of the settings. Out: listings, and each recording as a local file while it is read.
"""
