"""The method: speculative streams on a model's own decoder layers (arXiv 2402.11131, §3.2)."""
