"""Methods of the comparison that are stopped or give other tokens, for tests of what the commands make of it."""

from ssft.bench.methods import plain

_run = plain.Method.run


def interrupt_plain(monkeypatch, stop, name=None):
    """Ctrl-C in the `stop`-th run of plain, with the adapter `name` or with any."""
    seen = []

    def run(self, prompts):
        if name in (None, self.adapted.active.name):
            seen.append(1)
        if len(seen) == stop:
            raise KeyboardInterrupt
        return _run(self, prompts)

    monkeypatch.setattr(plain.Method, "run", run)


def wrong_tokens(self, prompts):
    """`run` of a method: plain's or streaming's, with another second token in every row."""
    results = _run(self, prompts)
    for result in results:
        result.token_ids[1] = (result.token_ids[1] + 1) % 97
    return results
