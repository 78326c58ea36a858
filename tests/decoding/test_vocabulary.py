"""A draft vocabulary changes what is guessed and no text: streams over fewer token ids against the whole head."""

import functools
import math

import pytest
import torch
from conftest import ARCHITECTURES, TINY, VOCABULARY, random_ids, with_adapter
from covering import covering
from torch import nn

from ssft.base.backbone import Backbone
from ssft.base.head import HeadColumns, HeadRows, head_over, head_rows
from ssft.decoding.config import TREE_KINDS, TreeConfig
from ssft.decoding.draft.streams import StreamDrafter
from ssft.decoding.draft.vocabulary import DraftVocabulary
from ssft.decoding.request import Request
from ssft.decoding.scheduler import Scheduler
from ssft.decoding.step import Step
from ssft.streams.config import StreamConfig
from ssft.streams.insertion import StreamHooks
from ssft.streams.modules import streams_of

TOKENS = 24
PROMPTS = [random_ids(1, length, seed=length)[0].tolist() for length in (9, 4, 15)]
WIDE = TreeConfig("best_first", 40, 16)


@functools.cache
def subject(architecture):
    """(step, streams, the three plain texts) of a tiny adapted model."""
    model = with_adapter(TINY[architecture](), StreamConfig(3, 2))
    step, streams = Step(StreamHooks(model)), streams_of(model)
    texts = [result.token_ids for result in decode(step, [None] * 3)]
    return step, streams, texts


def decode(step, drafters, tree=WIDE, chosen=(0, 1, 2)):
    requests = [Request(PROMPTS[row], TOKENS, drafter, tree) for row, drafter in zip(chosen, drafters, strict=True)]
    *_, results = Scheduler(step).decode(requests)
    return results


def vocabulary(step, ids):
    return DraftVocabulary(torch.tensor(sorted(ids)), lambda ids: head_rows(step.backbone.head, ids))


def unused(texts):
    """A token id that no text and no prompt holds."""
    return min(set(range(VOCABULARY)) - {token for ids in (*texts, *PROMPTS) for token in ids})


def sets(texts):
    return {
        "none of the text": {unused(texts)},
        "every third": set(range(0, VOCABULARY, 3)),
        "the text": {token for text in texts for token in text},
        "all": set(range(VOCABULARY)),
    }


NAMES = ["none of the text", "every third", "the text", "all"]


@covering(architecture=ARCHITECTURES, kind=TREE_KINDS, name=NAMES, rows={"batch1": (1,), "batch3": (0, 1, 2)})
def test_any_vocabulary_gives_the_plain_text(architecture, kind, name, rows):
    step, streams, texts = subject(architecture)
    drafter = StreamDrafter(streams, vocabulary(step, sets(texts)[name]))
    tree = TreeConfig(kind, 40, 16)
    whole = decode(step, [StreamDrafter(streams)] * len(rows), tree, rows)
    results = decode(step, [drafter] * len(rows), tree, rows)
    assert [result.token_ids for result in results] == [texts[row] for row in rows]
    if name == "all":
        assert [(r.calls, r.accepted) for r in results] == [(r.calls, r.accepted) for r in whole]


def test_what_is_in_no_vocabulary_is_never_drafted(architecture):
    """The prompt here is the one token that the vocabulary has, so no token of the text can be guessed."""
    step, streams, _ = subject(architecture)
    for token in range(VOCABULARY):
        prompt = [token] * 5
        *_, (plain,) = Scheduler(step).decode([Request(prompt, TOKENS)])
        if token not in plain.token_ids:
            break
    drafter = StreamDrafter(streams, vocabulary(step, {token}))
    *_, (result,) = Scheduler(step).decode([Request(prompt, TOKENS, drafter, WIDE)])
    assert (result.token_ids, result.calls) == (plain.token_ids, TOKENS)
    *_, (whole,) = Scheduler(step).decode([Request(prompt, TOKENS, StreamDrafter(streams), WIDE)])
    assert whole.calls < TOKENS, "the streams guess nothing, so the test shows nothing"


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1), (1, 2, 0)])
def test_rows_with_and_without_stand_in_one_batch_and_do_not_depend_on_each_other(architecture, order):
    step, streams, texts = subject(architecture)
    drafters = [
        StreamDrafter(streams, vocabulary(step, sets(texts)["every third"])),
        StreamDrafter(streams),
        StreamDrafter(streams, vocabulary(step, sets(texts)["the text"])),
    ]
    mixed = decode(step, [drafters[i] for i in order], chosen=order)
    assert [result.token_ids for result in mixed] == [texts[row] for row in order]
    for row, result in zip(order, mixed, strict=True):
        (alone,) = decode(step, [drafters[row]], chosen=[row])
        assert (result.calls, result.accepted) == (alone.calls, alone.accepted)


class Compared(StreamDrafter):
    """Proposes over its vocabulary, and checks that against what the whole head says of the same states."""

    def propose(self, stops, states, step):
        found = super().propose(stops, states, step)
        whole = StreamDrafter(self.streams).propose(stops, states, step)
        for stop, guesses, full in zip(stops, found, whole, strict=True):
            known = {*self.vocabulary.ids, *stop.row.request.prompt}
            for j in range(stop.row.request.depth):
                kept = [pair for pair in zip(full.tokens[j], full.scores[j], strict=True) if pair[0] in known]
                assert guesses.tokens[j] == [token for token, _ in kept]
                lifted = math.log(sum(math.exp(score) for _, score in kept))
                assert guesses.scores[j] == pytest.approx([score - lifted for _, score in kept], abs=1e-4)
        self.compared = getattr(self, "compared", 0) + len(stops)
        return found


@pytest.mark.parametrize("cap", [None, 2.0])
@pytest.mark.parametrize("name", NAMES)
def test_guesses_are_the_whole_heads_without_the_other_tokens(architecture, name, cap, monkeypatch):
    """Rows of different prompts in one batch; `cap` is what a family does to its logits behind the head."""
    step, streams, texts = subject(architecture)
    if cap is not None:
        plain = Backbone.logits
        monkeypatch.setattr(Backbone, "logits", lambda *args: torch.tanh(plain(*args) / cap) * cap)
    drafter = Compared(streams, vocabulary(step, sets(texts)[name]))
    decode(step, [drafter] * 3, TreeConfig("best_first", 12, VOCABULARY + 1))
    assert drafter.compared >= 12


def test_the_prompts_rows_are_gathered_once_a_request():
    step, streams, _ = subject("llama")
    gathered = []

    def gather(ids):
        gathered.append(ids.tolist())
        return head_rows(step.backbone.head, ids)

    drafter = StreamDrafter(streams, DraftVocabulary(torch.tensor([3, 5]), gather))
    for _ in range(2):
        decode(step, [drafter] * 3)
    added = [sorted(set(prompt) - {3, 5}) for prompt in PROMPTS]
    assert gathered == [[3, 5], *added, *added]


@pytest.mark.parametrize("bias", [False, True])
def test_rows_of_a_head(bias):
    torch.manual_seed(0)
    head, ids, added = nn.Linear(8, 20, bias), torch.tensor([2, 3, 19]), torch.randn(3, 8)
    hidden = torch.randn(2, 4, 8)
    rows = head_rows(head, ids)
    assert torch.allclose(rows(hidden), head(hidden)[..., ids], atol=1e-6)
    assert rows.nbytes == 4 * 3 * (8 + bias)
    assert rows.weight.is_contiguous()
    more = head_rows(head, ids, added)
    assert torch.allclose(more(hidden), head(hidden)[..., ids] + hidden @ added.T, atol=1e-6)
    narrow = head_rows(nn.Linear(8, 20, bias, dtype=torch.bfloat16), ids, added)
    assert narrow.weight.dtype == torch.bfloat16


def as_it_is(head):
    return head


def in_a_lora(head):
    from peft import LoraConfig, get_peft_model

    model = get_peft_model(nn.Sequential(head), LoraConfig(r=2, target_modules=["0"], init_lora_weights=False))
    return model.base_model.model[0]


def offloaded(head):
    from accelerate import cpu_offload

    cpu_offload(head, torch.device("cpu"))
    assert head.weight.is_meta
    return head


def in_four_bits(head):
    from bitsandbytes.nn import Linear4bit

    packed = Linear4bit(head.in_features, head.out_features, head.bias is not None, torch.float32)
    packed.load_state_dict(head.state_dict())
    return packed.to("cpu")


@pytest.mark.parametrize("made", [as_it_is, in_a_lora, offloaded, in_four_bits])
def test_every_head_gives_the_logits_of_some_ids(made):
    torch.manual_seed(0)
    head, ids, hidden = made(nn.Linear(64, 20)), torch.tensor([2, 3, 19]), torch.randn(2, 4, 64)
    over = head_over(head, ids)
    assert type(over) is (HeadRows if made is as_it_is else HeadColumns)
    assert torch.allclose(over(hidden), head(hidden)[..., ids], atol=1e-6)
    assert (over.nbytes > 0) == (made is as_it_is)


@pytest.mark.parametrize("made", [as_it_is, in_a_lora])
def test_a_head_that_trains_learns_through_some_of_its_ids(made):
    head = made(nn.Linear(8, 20))
    trained = [p for p in head.parameters() if p.requires_grad]
    head_over(head, torch.tensor([2, 3, 19]))(torch.randn(4, 8)).sum().backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in trained)
