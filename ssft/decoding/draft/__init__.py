"""Who proposes the next tokens: the streams, or heads on the main state (Medusa)."""
