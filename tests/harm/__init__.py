"""Planted harm, from the first harmed trade to the verdict of the gate: `make harm`.

In: a simulated recording whose volatility changes from noon on as no model has learnt; a whole stack of its own. Out: a
table of what each part saw, hour by hour of event time.
"""
