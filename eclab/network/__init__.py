"""What a model is: its weights as edges, its units, and what scales with what."""
