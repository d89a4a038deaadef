"""Answer HTTP requests.

In: HTTP requests, and the newest forecasts of the topic. Out: answers and problems as JSON.
"""
