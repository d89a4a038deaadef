"""JSON messages: channels of a feed, responses of a REST interface, and objects with the keys of a table.

In: lines of JSON. Out: the trades of each line in columns; other messages are skipped and counted by type.
"""
