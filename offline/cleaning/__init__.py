"""Clean-up of the lake.

In: a lake, and the versions in the registry. Out: no object that neither a manifest nor a version in use names.
"""
