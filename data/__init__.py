"""What a trade, a feature, a target, a loss and a served model are. No Kafka, no environment, no clock."""
