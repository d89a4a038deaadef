"""From trades to forecasts while they happen: one process each, Kafka between them."""
