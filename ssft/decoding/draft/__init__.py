"""Who proposes the tokens that a pass verifies."""
