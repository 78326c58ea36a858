"""The adapter folder on disk: what belongs in it, reading and writing it whole, and where one is found."""
