"""Training: `StreamSFTConfig` and `StreamSFTTrainer` on TRL's pair, and the n-gram loss (paper §3.2.4)."""
