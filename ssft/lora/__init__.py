"""LoRA tensors over one base: the low-rank product, which row runs with which adapter, who is on the device."""
