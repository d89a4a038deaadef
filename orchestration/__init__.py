"""What Dagster serves: it wires the other folders, and computes nothing itself. Nothing imports it."""
