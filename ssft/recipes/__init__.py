"""Recipes: what a training run is asked for, as YAML, and the rows that it reads."""
