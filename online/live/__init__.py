"""Keep what the live page shows: forecasts of the last day in memory, judged as their horizons pass.

In: records of `predictions` from the API's one reader. Out: frames and states as JSON, for any number of browsers.
"""
