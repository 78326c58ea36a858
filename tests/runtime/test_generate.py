"""`generate(custom_generate=StreamGenerate...)` returns the ids that `generate` returns, from fewer passes.

The reference is transformers' own greedy `generate` of a second PeftModel that has no hooks.
"""

import functools
import inspect
import threading
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest
import torch
from conftest import with_adapter
from covering import over_architectures
from peft import PeftModel
from peft_user import TOKENS, PeftUser
from tiny_base import save_tiny_base
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    EosTokenCriteria,
    GenerationConfig,
    LogitsProcessorList,
    MaxLengthCriteria,
    StoppingCriteria,
    StoppingCriteriaList,
    StopStringCriteria,
    TextStreamer,
)
from transformers.generation import GenerateDecoderOnlyOutput

from ssft.base.load import load_base
from ssft.bundle.read import read_bundle
from ssft.decoding.config import TreeConfig
from ssft.errors import BundleError, GenerationError
from ssft.runtime.generate import StreamGenerate
from ssft.streams.passes import current_pass

ROWS = {"batch1": [0], "batch3": [0, 1, 2]}


@pytest.fixture(scope="module")
def users(tmp_path_factory):
    """The one `PeftUser` of an architecture."""
    return functools.cache(lambda architecture: PeftUser(tmp_path_factory.mktemp(architecture), architecture))


@pytest.fixture
def subject(users, architecture):
    return users(architecture)


@pytest.fixture
def llama(users):
    return users("llama")


def late_token(subject, rows):
    """A token that row 0 says first after more than 5 others, and its place."""
    ids = subject.plain.generate(**subject.inputs(rows), do_sample=False, max_new_tokens=TOKENS)
    answer = ids[0, -TOKENS:].tolist()
    return next((token, place) for place, token in enumerate(answer) if place > 5 and token not in answer[:place])


# --- the same ids ---


@over_architectures(pairs=False, rows=ROWS)
def test_the_adapter_changes_the_text(subject, rows):
    with subject.plain.disable_adapter():
        base = subject.plain.generate(**subject.inputs(rows), do_sample=False, max_new_tokens=TOKENS)
    adapted, streamed = subject.both(rows)
    assert not torch.equal(base, adapted)
    assert torch.equal(streamed, adapted)


@over_architectures(pairs=False, rows=ROWS)
def test_same_ids_from_fewer_passes(subject, rows):
    inputs = subject.inputs(rows)
    assert (inputs["attention_mask"] == 0).any() == (len(rows) > 1)
    reference, streamed = subject.both(rows)
    assert torch.equal(streamed, reference)
    assert streamed.dtype == reference.dtype
    assert subject.generate.last[0].finish_reason == "length"
    calls, tokens = subject.calls()
    assert tokens >= TOKENS
    assert calls < tokens


@over_architectures(pairs=False, rows=ROWS)
def test_eos(subject, rows):
    token, place = late_token(subject, rows)
    reference, streamed = subject.both(rows, eos_token_id=[token, 1], pad_token_id=7)
    assert torch.equal(streamed, reference)
    first = subject.generate.last[0]
    assert first.finish_reason == "eos"
    assert len(first.token_ids) == place + 1


PROCESSORS = [
    {"repetition_penalty": 1.3},
    {"no_repeat_ngram_size": 2},
    {"repetition_penalty": 0.7, "no_repeat_ngram_size": 3, "min_new_tokens": 20},
    {"encoder_repetition_penalty": 1.5},
    {"encoder_no_repeat_ngram_size": 1},
    {"prefix_allowed_tokens_fn": lambda row, ids: range(10 + 20 * row + len(ids) % 7, 60 + len(ids) % 7)},
    {"suppress_tokens": list(range(20, 40)), "begin_suppress_tokens": list(range(40, 90))},
]


@over_architectures(pairs=False, rows=ROWS, settings={"+".join(settings): settings for settings in PROCESSORS})
def test_logits_processors_follow_each_path(subject, rows, settings):
    plain = subject.plain.generate(**subject.inputs(rows), do_sample=False, max_new_tokens=TOKENS)
    reference, streamed = subject.both(rows, **settings)
    assert not torch.equal(reference, plain)
    assert torch.equal(streamed, reference)
    calls, tokens = subject.calls()
    assert calls < tokens


def test_processors_see_the_padding_of_their_row(llama):
    """Padding counts as said where the prompt's mask is not known to the processor, as in a processor of one's own."""
    seen = []

    def without_first(ids, scores):
        seen.append(ids.shape[1])
        return scores.index_fill(1, ids[:, 0], -float("inf")).index_fill(1, ids[:, -2], -float("inf"))

    def per_row(ids, scores):
        return torch.cat([without_first(ids[b : b + 1], scores[b : b + 1]) for b in range(len(ids))])

    mine = {"logits_processor": LogitsProcessorList([per_row])}
    reference, streamed = llama.both([0, 1, 2], **mine)
    assert torch.equal(streamed, reference)
    assert min(seen) == llama.inputs([0, 1, 2])["input_ids"].shape[1]


@over_architectures(pairs=False, rows=ROWS)
def test_stop_strings(subject, rows):
    """Of a batch, transformers goes on with rows that a stop string ended; where an EOS can come it does not."""
    reference, _ = subject.both(rows)
    strings = [subject.tokenizer.decode(row[-TOKENS:])[10:12] for row in reference]
    criteria = StoppingCriteriaList([StopStringCriteria(subject.tokenizer, strings)])
    theirs = {"stop_strings": strings, "tokenizer": subject.tokenizer}
    reference, streamed = subject.both(rows, theirs=theirs, ours={"stopping_criteria": criteria})
    assert torch.equal(streamed, reference)
    assert [row.finish_reason for row in subject.generate.last] == ["stop"] * len(rows)
    assert all(len(row.token_ids) <= 12 for row in subject.generate.last)


def test_stop_strings_without_an_eos_pads_what_has_ended(llama):
    reference, _ = llama.both([0])
    string = llama.tokenizer.decode(reference[0, -TOKENS:])[10:12]
    criteria = StoppingCriteriaList([StopStringCriteria(llama.tokenizer, [string])])
    ids = llama.model.generate(
        **llama.inputs([0, 1, 2]),
        custom_generate=llama.generate,
        generation_config=GenerationConfig(max_new_tokens=TOKENS, pad_token_id=0),
        eos_token_id=None,
        stopping_criteria=criteria,
    )
    for row, result in zip(ids, llama.generate.last, strict=True):
        answer = row[-max(len(r.token_ids) for r in llama.generate.last) :].tolist()
        assert answer == result.token_ids + [0] * (len(answer) - len(result.token_ids))
    assert llama.generate.last[0].finish_reason == "stop"


class SaidBefore(StoppingCriteria):
    """Ends a row at a token that it has held before; looks at the whole row."""

    def __init__(self):
        self.widths = []

    def __call__(self, input_ids, scores, **kwargs):
        self.widths.append(input_ids.shape[1])
        return torch.tensor([ids[-1] in ids[:-1] and len(ids) > 30 for ids in input_ids])


@over_architectures(pairs=False, rows=ROWS)
def test_criteria_see_the_padding_and_every_token(subject, rows):
    ours, theirs = SaidBefore(), SaidBefore()
    reference, streamed = subject.both(rows, theirs={"stopping_criteria": [theirs]}, ours={"stopping_criteria": [ours]})
    assert torch.equal(streamed, reference)
    assert sorted(set(ours.widths)) == sorted(set(theirs.widths))
    assert {row.finish_reason for row in subject.generate.last} == {"stop"}


@over_architectures(pairs=False, rows=ROWS)
def test_max_length_counts_the_padding(subject, rows):
    width = subject.inputs(rows)["input_ids"].shape[1]
    reference, streamed = subject.both(rows, tokens=None, max_length=width + 7)
    assert torch.equal(streamed, reference)
    assert streamed.shape[1] == width + 7
    criteria = StoppingCriteriaList([MaxLengthCriteria(width + 4)])
    reference, streamed = subject.both(rows, tokens=None, max_length=width + 7, stopping_criteria=criteria)
    assert torch.equal(streamed, reference)
    assert streamed.shape[1] == width + 4


def test_return_dict_in_generate(llama):
    reference, streamed = llama.both([0], return_dict_in_generate=True)
    assert isinstance(streamed, GenerateDecoderOnlyOutput)
    assert torch.equal(streamed.sequences, reference.sequences)


def test_without_a_mask(llama):
    ids = llama.inputs([0])["input_ids"]
    settings = {"do_sample": False, "max_new_tokens": TOKENS}
    reference = llama.plain.generate(ids, **settings)
    assert torch.equal(llama.model.generate(ids, custom_generate=llama.generate, **settings), reference)
    # Also by hand, outside generate and with gradients on.
    config = GenerationConfig(max_length=reference.shape[1], eos_token_id=1, pad_token_id=0)
    assert torch.equal(llama.generate(llama.model, ids, generation_config=config), reference)
    last = int(reference[0, ids.shape[1] + 2])
    criteria = [EosTokenCriteria(last)]
    config = GenerationConfig(max_length=reference.shape[1])
    assert llama.generate(llama.model, ids, stopping_criteria=criteria, generation_config=config)[0, -1] == last
    assert llama.generate.last[0].finish_reason == "eos"


def test_text_streamer(llama, capsys):
    """It shows what transformers shows, and gets every token with the pass that produced it."""
    passes = []

    class Recorder(TextStreamer):
        def put(self, value):
            passes.append(llama.generate.last[0].calls if llama.generate.last else 0)
            super().put(value)

    settings = {**llama.inputs([0]), "do_sample": False, "max_new_tokens": TOKENS}
    ids = llama.plain.generate(**settings, streamer=TextStreamer(llama.tokenizer))
    theirs = capsys.readouterr().out
    llama.model.generate(**settings, custom_generate=llama.generate, text_streamer=Recorder(llama.tokenizer))
    assert capsys.readouterr().out == theirs == llama.tokenizer.decode(ids[0]) + "\n"
    assert len(passes) == 1 + TOKENS
    assert passes[1:] == sorted(passes[1:])
    assert set(passes[1:]) == set(range(1, llama.generate.last[0].calls + 1))


def test_threads_that_share_it_get_their_own_text(llama):
    """One thread's call ends while the other still shows its text."""
    reference = [llama.both([row])[0] for row in (0, 1)]
    assert not torch.equal(reference[0], reference[1])
    shown, other_done = threading.Event(), threading.Event()

    class Slow:
        def put(self, value):
            pass

        def end(self):
            shown.set()
            assert other_done.wait(60)

    def call(row, **more):
        settings = {"do_sample": False, "max_new_tokens": TOKENS, "custom_generate": llama.generate}
        return llama.model.generate(**llama.inputs([row]), **settings, **more)

    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(call, 0, text_streamer=Slow())
        assert shown.wait(60)
        second = call(1)
        other_done.set()
        assert torch.equal(second, reference[1])
        assert torch.equal(first.result(), reference[0])


def test_streams_none_is_plain_decoding(llama):
    plain = StreamGenerate(llama.generate.hooks, None)
    reference, _ = llama.both([0, 1])
    settings = {"do_sample": False, "max_new_tokens": TOKENS}
    assert torch.equal(llama.model.generate(**llama.inputs([0, 1]), custom_generate=plain, **settings), reference)
    assert [row.calls for row in plain.last] == [len(row.token_ids) for row in plain.last]


def test_every_row_runs_with_the_adapter(llama):
    seen = []
    model = llama.model.get_base_model()
    hook = model.get_decoder().register_forward_pre_hook(lambda *_: seen.append(list(current_pass().adapters)))
    adapter = SimpleNamespace(layers={}, stream_layers={})
    generate = StreamGenerate(llama.generate.hooks, llama.generate.drafter, TreeConfig(), adapter)
    llama.model.generate(**llama.inputs([0, 1]), custom_generate=generate, max_new_tokens=3)
    hook.remove()
    assert seen
    assert all(adapters == [adapter, adapter] for adapters in seen)


def test_the_context_ends_a_row(tmp_path):
    subject = PeftUser(tmp_path, "opt")
    subject.model.get_base_model().config.max_position_embeddings = 30
    inputs = subject.inputs([0, 1])
    subject.model.generate(**inputs, custom_generate=subject.generate, max_new_tokens=100)
    lengths = [len(row.token_ids) for row in subject.generate.last]
    assert lengths == [30 - int(mask.sum()) for mask in inputs["attention_mask"]]


def test_the_mask_is_left_to_generate():
    """A parameter attention_mask would be taken away from generate, which would then make one of its own."""
    assert "attention_mask" not in inspect.signature(StreamGenerate.__call__).parameters


# --- from_adapter ---


def test_the_lora_must_be_loaded_and_active(llama):
    path = str(llama.bundle)
    with pytest.raises(GenerationError, match=rf"no LoRA layers .*PeftModel.from_pretrained\(base, '{path}'\)"):
        StreamGenerate.from_adapter(llama.base(), path)
    model = llama.load()
    model.merge_adapter()
    with pytest.raises(GenerationError, match=r"a LoRA merged into its weights.*call unmerge_adapter\(\) first"):
        StreamGenerate.from_adapter(model, path)
    model.unmerge_adapter()
    with (
        model.disable_adapter(),
        pytest.raises(GenerationError, match=r"has its LoRA disabled.* call enable_adapter_layers\(\) first"),
    ):
        StreamGenerate.from_adapter(model, path)
    with pytest.raises(GenerationError, match=r"no LoRA layers .*merged and unloaded"):
        StreamGenerate.from_adapter(model.merge_and_unload(), path)


def test_the_lora_must_be_that_of_the_bundle(llama):
    other = with_adapter(llama.base(), seed=5)
    with pytest.raises(GenerationError, match=r"active adapter default, which is another one.*load_adapter\('"):
        StreamGenerate.from_adapter(other, llama.bundle)
    other.load_adapter(str(llama.bundle), adapter_name="sql")
    with pytest.raises(GenerationError, match=r"active adapter default, which .* call set_adapter\('sql'\) first"):
        StreamGenerate.from_adapter(other, llama.bundle)
    other.base_model.set_adapter(["default", "sql"])
    with pytest.raises(GenerationError, match="active adapter default, sql, which is another one"):
        StreamGenerate.from_adapter(other, llama.bundle)
    other.set_adapter("sql")
    generate = StreamGenerate.from_adapter(other, llama.bundle)
    reference, _ = llama.both([0])
    streamed = other.generate(**llama.inputs([0]), custom_generate=generate, max_new_tokens=TOKENS, do_sample=False)
    assert torch.equal(streamed, reference)


def test_a_lora_in_lower_precision_is_the_same_one(llama):
    model = PeftModel.from_pretrained(llama.base().bfloat16(), llama.bundle, autocast_adapter_dtype=False).bfloat16()
    generate = StreamGenerate.from_adapter(model, llama.bundle)
    assert model.generate(**llama.inputs([0]), custom_generate=generate, max_new_tokens=4).shape[0] == 1


def test_a_four_bit_base(llama, packing):
    models = [load_base(llama.base_path, dtype="float32", quantization="4bit", device="cpu")[0] for _ in range(2)]
    plain, model = (PeftModel.from_pretrained(base, llama.bundle).eval() for base in models)
    assert any("4bit" in type(module).__name__ for module in model.modules())
    generate = StreamGenerate.from_adapter(model, llama.bundle)
    settings = {**llama.inputs([0, 2]), "do_sample": False, "max_new_tokens": TOKENS}
    assert torch.equal(model.generate(**settings, custom_generate=generate), plain.generate(**settings))


def test_two_calls_share_the_hooks(llama):
    again = StreamGenerate.from_adapter(llama.model, llama.bundle)
    assert again.hooks is llama.generate.hooks
    assert again.tree == read_bundle(llama.bundle).tree
    smaller = StreamGenerate.from_adapter(llama.model, llama.bundle, tree=TreeConfig(kind="chain"))
    assert smaller.tree.kind == "chain"
    assert len(again.hooks.backbone.layers[0]._forward_pre_hooks) == 1


def test_the_bundle_is_checked(llama, tmp_path):
    plain = tmp_path / "plain"
    with_adapter(llama.base()).save_pretrained(plain)
    with pytest.raises(GenerationError, match="is a LoRA without streams, which cannot draft; leave out custom_gen"):
        StreamGenerate.from_adapter(llama.load(), plain)
    other = save_tiny_base(tmp_path / "other", "llama", hidden_size=32)
    with pytest.raises(BundleError, match="made for base 'base', whose model shape"):
        StreamGenerate.from_adapter(with_adapter(AutoModelForCausalLM.from_pretrained(other)), llama.bundle)
    with pytest.raises(BundleError, match="is no folder"):
        StreamGenerate.from_adapter(llama.load(), tmp_path / "nowhere")


def test_the_tokenizer_is_checked_if_given(llama):
    model = llama.load()
    assert StreamGenerate.from_adapter(model, llama.bundle, tokenizer=llama.tokenizer).tree.max_nodes == 48
    tokenizer = AutoTokenizer.from_pretrained(llama.base_path)
    tokenizer.add_tokens(["<new>"])
    with pytest.raises(BundleError, match="whose tokenizer"):
        StreamGenerate.from_adapter(model, llama.bundle, tokenizer=tokenizer)


def test_a_lossless_bundle_is_not_for_peft(llama, monkeypatch):
    bundle = read_bundle(llama.bundle)
    bundle.loras[0].rows = "streams"  # as the reader has it of a lossless bundle
    monkeypatch.setattr("ssft.runtime.generate.read_bundle", lambda _path: bundle)
    with pytest.raises(GenerationError, match=r"mode is lossless.* decode it with ssft.load_adapted"):
        StreamGenerate.from_adapter(llama.load(), llama.bundle)
