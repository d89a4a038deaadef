"""Everything on one machine: `make run`.

In: settings. Out: the parts as processes, watched and started again.
"""
