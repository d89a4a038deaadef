"""Summarize and draw recordings, for people and machines.

In: the batches of a recording. Out: a summary as text or JSON, and a picture.
"""
