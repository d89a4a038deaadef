"""What runs on recorded data: the lake, training, evaluation, promotion, explanation."""
