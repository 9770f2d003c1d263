"""Models converted: float weights of a checkpoint → a checkpoint that other tools read."""
