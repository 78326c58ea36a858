"""The card of an adapter: tables of what was measured, the text, the picture of its training."""
