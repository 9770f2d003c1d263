"""Models converted: float weights of a checkpoint → a quantised checkpoint that other tools read."""
