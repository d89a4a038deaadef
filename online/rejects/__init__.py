"""Look at what was refused, and send it again: records of `trades-rejected` in; pages for a person out, and trades of
a new source on `coinbase-trades`.
"""
