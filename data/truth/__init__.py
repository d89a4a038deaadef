"""Judge forecasts by one definition for all processes, and adapt forecasts by what has happened.

In: event times and prices of a stream, and forecasts. Out: targets, losses, counted forecasts, adapted scores.
"""
