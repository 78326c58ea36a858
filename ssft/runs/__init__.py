"""A training run from its recipe to the folder that it writes."""
