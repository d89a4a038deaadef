"""What really happened after a forecast, and how a forecast is judged: one definition for all processes.

In: event times and prices of a stream, and forecasts. Out: targets, losses, and which forecasts count.
"""
