"""Training rows from a model itself: its answers to prompts, or to questions that it asks itself."""
