"""Methods of the comparison built over an adapted model, a prompt for them, and what they answer."""

from ssft.bench.methods import Setting, method_module

# Lookup finds 5 6 at the start and drafts the ten tokens after it; the draft model drafts up to twenty.
PROMPT = [*range(5, 21), 5, 6]


def build(adapted, name, max_new_tokens=12, batch_size=1, peers=None):
    """The method `name` over the adapted model."""
    return method_module(name).Method(Setting(adapted, max_new_tokens, batch_size, peers))


def ids(results):
    """The token ids of every row."""
    return [result.token_ids for result in results]


def until(row, eos):
    """The row up to its first token of `eos`, that token included."""
    return next((row[: place + 1] for place, token in enumerate(row) if token in eos), row)
