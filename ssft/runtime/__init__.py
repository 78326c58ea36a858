"""The model that people decode with: adapters over one base, prompts in, text out."""
