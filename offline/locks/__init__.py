"""Locks between processes of one machine or of many, as objects of the lake.

In: the objects of a lake, and a path. Out: at most a single holder at a time; a later process takes over
the lock of a killed process.
"""
