"""Work on recorded data: the lake, training, evaluation, promotion, explanation."""
