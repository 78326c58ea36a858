"""What adapters with streams are compared with, trained here: the plain-LoRA twin, Medusa heads, a truncated draft."""
