"""Run uvicorn as the API needs it.

In: the application and its settings. Out: a server with bounded headers, and a notice before its stop.
"""
