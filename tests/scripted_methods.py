"""Methods of the comparison whose times, answers and errors a test chooses, and the clock that their times pass on."""

from ssft.bench.measure import measure
from ssft.decoding.request import Generation


class Clock:
    """Time that passes when it is told to: what a machine does besides cannot change a measurement."""

    now = 0.0

    def perf_counter(self):
        return self.now

    def sleep(self, seconds):
        self.now += seconds


CLOCK = Clock()


class Scripted:
    """A method that takes `delay` seconds of `CLOCK` per prompt (or what `delay` says of it) and answers with its
    prompt; `log` gets every run."""

    def __init__(
        self, name, log, delay=0.0, calls=1, answer=None, stop_after=None, kind="plain", prompt_seconds=0.0, change=None
    ):
        self.name, self.log, self.delay, self.calls, self.stop_after = name, log, delay, calls, stop_after
        self.answer = answer or (lambda prompt: prompt)
        self.change = change or (lambda outputs: outputs)
        self.KIND, self.LOSSLESS, self.prompt_seconds = kind, True, prompt_seconds

    def run(self, prompts):
        if self.stop_after is not None and len(self.log) >= self.stop_after:
            raise KeyboardInterrupt
        self.log.append((self.name, [tuple(prompt) for prompt in prompts]))
        CLOCK.sleep(sum(self.delay(prompt) if callable(self.delay) else self.delay for prompt in prompts))
        return self.change(
            [
                Generation(self.answer(prompt), self.calls, [1, 2], prompt_seconds=self.prompt_seconds * place)
                for place, prompt in enumerate(prompts, start=1)
            ]
        )

    extra_parameters, extra_bytes = 7, 28
    training = {"steps": 9}  # noqa: RUF012


PROMPTS = [[3, 4, 5], [6, 7], [8, 9, 10, 11]]


def scripted(**changes):
    """Two methods that share one log of their runs: `plain`, and `other`, which is plain as well unless told."""
    log = []
    return log, {name: Scripted(name, log, **{"calls": 1, **changes.get(name, {})}) for name in ("plain", "other")}


def run(adapted, methods, **settings):
    """The comparison of `methods` over `PROMPTS`: one round of at most 4 new tokens, unless told."""
    return measure(adapted, PROMPTS, methods, **{"max_new_tokens": 4, "rounds": 1, "progress": False, **settings})
