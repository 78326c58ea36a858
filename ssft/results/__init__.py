"""Results: what commands measured, as JSON keeps it, and the reader that checks such a file."""
