"""Text drafted by Medusa heads equals plain greedy text, token for token in float32, whatever the heads are worth.

The reference is transformers' `generate` on the model before any hook. `PlantedHeads` know what the model will say at
every state it can be in, so that drafts are never, sometimes or always right; everything else is real.
"""

import functools
import math
import random
from types import SimpleNamespace

import pytest
import torch
from conftest import TINY, VOCABULARY, random_ids, with_adapter
from decoder import Decoder
from torch import nn

from ssft.decoding.config import TREE_KINDS, TreeConfig
from ssft.decoding.draft.medusa import MedusaDrafter
from ssft.decoding.draft.medusa_heads import MedusaConfig, MedusaHeads
from ssft.streams.insertion import StreamHooks

HEADS, TOP_K, TOKENS = 3, 2, 22
ALL = [0, 1, 2]
PROMPTS = [random_ids(1, length, seed=length)[0].tolist() for length in (9, 4, 15)]


@pytest.fixture(params=[[1], ALL], ids=["batch1", "batch3"])
def rows(request):
    return request.param


@pytest.fixture(params=TREE_KINDS)
def kind(request):
    return request.param


def generate(model, prompt, tokens):
    ids = torch.tensor([prompt])
    output = model.generate(
        input_ids=ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=tokens, pad_token_id=0
    )
    return output[0, len(prompt) :].tolist()


@functools.cache
def subject(architecture):
    """A model with its LoRA, what it says, and the state that its head reads before it says each token."""
    model = with_adapter(TINY[architecture]())
    model.generation_config.eos_token_id = None
    texts = [generate(model, prompt, TOKENS + HEADS + 1) for prompt in PROMPTS]
    hooks = StreamHooks(model)
    states = []
    with torch.inference_mode():
        for prompt, text in zip(PROMPTS, texts, strict=True):
            hidden = hooks.backbone.decoder(input_ids=torch.tensor([prompt + text])).last_hidden_state[0]
            states.append(hidden[len(prompt) - 1 :][:TOKENS])  # state k is the one that issues text[k]
    return SimpleNamespace(model=model, hooks=hooks, texts=texts, states=states)


def is_right(drafts, row, at, head):
    """Whether the guess that head `head` (1, 2, ..) makes at the state that issues text[at] is right."""
    if drafts == "sometimes":
        return random.Random(f"{row}/{at}/{head}").random() < 0.6
    return drafts == "always"


class PlantedHeads(nn.Module):
    """Heads that recognise the state they are given, and fail if it is none of a text's own."""

    def __init__(self, of, drafts, chain):
        super().__init__()
        self.config = MedusaConfig(num_heads=HEADS)
        self.of, self.drafts, self.chain = of, drafts, chain
        self.known = torch.cat(of.states)
        self.places = [(row, at) for row, states in enumerate(of.states) for at in range(len(states))]

    def forward(self, states):
        logits = torch.full((len(states), HEADS, VOCABULARY), -20.0)
        for i, state in enumerate(states):
            distances = (self.known - state).norm(dim=-1)
            assert distances.min() < 1e-3
            row, at = self.places[int(distances.argmin())]
            for head in range(1, HEADS + 1):
                right = self.of.texts[row][at + head]
                wrong = [(right + 1) % VOCABULARY, (right + 2) % VOCABULARY]
                best, second = (wrong[0], right) if not self.chain and (at + head) % 2 else (right, wrong[0])
                if not is_right(self.drafts, row, at, head):
                    best, second = wrong
                logits[i, head - 1, best], logits[i, head - 1, second] = math.log(0.6), math.log(0.3)
        return logits


def decoder(of, heads, tree):
    return Decoder(of.hooks, None, tree, MedusaDrafter(heads))


def decode(of, heads, tree, rows, tokens=TOKENS, eos=()):
    return decoder(of, heads, tree).generate([PROMPTS[row] for row in rows], tokens, set(eos))


def expected_calls(drafts, row, length, budget, heads=HEADS):
    """Passes that decoding must take, by walking through the text."""
    produced = calls = 1
    while produced < length:
        reach = min(heads, budget - produced - 1)
        depth = next((d for d in range(reach) if not is_right(drafts, row, produced - 1, d + 1)), max(reach, 0))
        produced += depth + 1
        calls += 1
    return calls


@pytest.mark.parametrize("ending", ["budget", "eos"])
@pytest.mark.parametrize("drafts", ["never", "sometimes", "always"])
def test_any_guesses_give_the_plain_text(architecture, kind, drafts, rows, ending):
    of = subject(architecture)
    text = of.texts[1]
    eos = {next(token for i, token in enumerate(text[:17]) if i > 8 and token not in text[:i])}
    eos = eos if ending == "eos" else set()
    heads = PlantedHeads(of, drafts, kind == "chain")
    for row, result in zip(rows, decode(of, heads, TreeConfig(kind, 16, TOP_K), rows, eos=eos), strict=True):
        expected = of.texts[row][:TOKENS]
        end = next((i + 1 for i, token in enumerate(expected) if token in eos), None)
        assert result.token_ids == expected[:end]
        assert result.finish_reason == ("length" if end is None else "eos")
        assert result.calls == expected_calls(drafts, row, len(expected[:end]), TOKENS)
        assert sum(result.accepted) == result.calls - 1
        assert 0 < result.prompt_seconds <= result.seconds


@pytest.mark.parametrize(("tokens", "accepted"), [(1, []), (2, [1]), (5, [0, 0, 0, 1]), (9, [0, 0, 0, 2])])
def test_right_guesses_are_accepted_as_deep_as_there_are_heads(architecture, kind, tokens, accepted):
    """1 token from the prompt's pass, then 3 heads and the token that the pass itself issues: 1 + 4 + 4."""
    of = subject(architecture)
    (result,) = decode(of, PlantedHeads(of, "always", kind == "chain"), TreeConfig(kind, 16, TOP_K), [0], tokens)
    assert result.token_ids == of.texts[0][:tokens]
    assert result.accepted == accepted
    assert result.calls == 1 + sum(accepted)


def test_the_tree_may_use_fewer_heads(architecture):
    of = subject(architecture)
    (result,) = decode(of, PlantedHeads(of, "always", False), TreeConfig("k_ary", 16, TOP_K, max_depth=1), [0], 9)
    assert result.token_ids == of.texts[0][:9]
    assert result.accepted == [0, 4]


@pytest.mark.parametrize("which", ["random", "of_the_base"])
def test_real_heads_give_the_plain_text(architecture, kind, rows, which):
    of = subject(architecture)
    torch.manual_seed(0)
    heads = MedusaHeads(MedusaConfig(HEADS), 64, VOCABULARY)
    if which == "of_the_base":
        heads = MedusaHeads.from_base(MedusaConfig(HEADS), of.hooks.backbone.head)
    results = decode(of, heads, TreeConfig(kind, 64, 16), rows)
    assert [r.token_ids for r in results] == [of.texts[row][:TOKENS] for row in rows]
    # With so many candidates per pass not all of them can be wrong, and random heads are not always right.
    if kind == "best_first":
        assert 1 + math.ceil(TOKENS / (HEADS + 1)) < sum(r.calls for r in results) / len(rows) < TOKENS


def test_more_heads_than_tokens_left(architecture):
    of = subject(architecture)
    heads = MedusaHeads.from_base(MedusaConfig(8), of.hooks.backbone.head)
    for text, result in zip(of.texts, decode(of, heads, TreeConfig("best_first", 48, 16), ALL, 4), strict=True):
        assert result.token_ids == text[:4]


def test_text_ends_with_the_context(architecture):
    model = with_adapter(TINY[architecture](max_position_embeddings=32))
    model.generation_config.eos_token_id = None
    prompts = [random_ids(1, length, seed=length)[0].tolist() for length in (31, 28, 10)]
    texts = [generate(model, prompt, 32 - len(prompt)) for prompt in prompts]
    hooks = StreamHooks(model)
    heads = MedusaHeads.from_base(MedusaConfig(HEADS), hooks.backbone.head)
    results = Decoder(hooks, None, TreeConfig("best_first", 48, 16), MedusaDrafter(heads)).generate(prompts, 100)
    assert [(r.token_ids, r.finish_reason) for r in results] == [(text, "length") for text in texts]


def test_a_plain_decoder_of_the_same_model_takes_a_pass_per_token(architecture):
    of = subject(architecture)
    (result,) = Decoder(of.hooks, None).generate([PROMPTS[0]], TOKENS)
    assert (result.token_ids, result.calls) == (of.texts[0][:TOKENS], TOKENS)
