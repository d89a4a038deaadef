"""Know the clients of the API by their keys.

In: the hashes of `API_KEYS`, and a key or cookie of a request. Out: the name of the key, and how long it has to wait.
"""
