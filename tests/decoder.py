"""One adapted model decoded below `MultiAdapterModel`: hooks, streams or another drafter, a tree."""

from ssft.decoding.config import TreeConfig
from ssft.decoding.draft.streams import StreamDrafter
from ssft.decoding.request import Request
from ssft.decoding.scheduler import Scheduler
from ssft.decoding.step import Step


class Decoder:
    """Greedy decoding of prompts (token ids) as one batch; `streams` None decodes plainly, unless `drafter` drafts."""

    budget = None

    def __init__(self, hooks, streams, tree=None, drafter=None, adapter=None):
        self.hooks, self.step = hooks, Step(hooks)
        self.streams = streams
        self.tree = tree or TreeConfig()
        self.adapter = adapter
        self.drafter = drafter or (None if streams is None else StreamDrafter(streams))

    def request(self, prompt, max_new_tokens, eos=()):
        return Request(prompt, max_new_tokens, self.drafter, self.tree, self.adapter, eos_token_ids=frozenset(eos))

    def generate(self, prompts, max_new_tokens, eos=()):
        """A `Generation` per prompt."""
        requests = [self.request(prompt, max_new_tokens, eos) for prompt in prompts]
        *_, results = Scheduler(self.step, budget=self.budget).decode(requests)
        return results


def on(step, decoder):
    """The decoder, whose passes are taken by `step`."""
    decoder.step = step
    return decoder
