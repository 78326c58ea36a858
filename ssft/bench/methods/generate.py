"""`model.generate` of transformers: greedy search with its own dynamic cache, the stock behaviour."""

from ssft.bench.methods import _transformers


class Method(_transformers.GenerateMethod):
    """Greedy search over the same model, with the same low-rank products as the other methods; calls == tokens."""

    DESCRIPTION = "model.generate of transformers, greedy, dynamic cache"
    KIND = "plain"
