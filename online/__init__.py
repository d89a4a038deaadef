"""Hold the processes that run while the market does: ingestor, forecaster, API."""
