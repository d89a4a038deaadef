"""A past forecast, taken apart and made again.

In: a source, a product and a trade id. Out: each part of the forecast, equal or not, with both values.
"""
