"""What starts runs without a person: schedules and sensors.

In: settings, the inbox, past runs. Out: requests for runs, and reports of failed runs.
"""
