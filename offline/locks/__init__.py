"""Locks between processes of one or many machines, as objects of the lake.

In: the objects of a lake, and a path. Out: one holder at a time; the lock of a killed process is taken over.
"""
