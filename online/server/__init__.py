"""Run uvicorn for the API.

In: the application and the settings. Out: a server with bounded headers, and with a notice before the stop.
"""
