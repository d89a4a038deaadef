"""Drills on the running stack.

In: the name of a drill. Out: a simulated source that went through the disturbance, and how its rows compare with a
computation offline.
"""
