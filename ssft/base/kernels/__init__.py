"""Linear layers as decoding wants them: few rows, many times, weights that never change."""
