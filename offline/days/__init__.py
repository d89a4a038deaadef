"""The steps of a product and UTC day, one module a table of the lake.

In: recordings. Out: trades, feature rows and a training set; a table is made again only when the inputs change.
"""
