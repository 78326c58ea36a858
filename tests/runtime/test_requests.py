"""What a request may ask for: limits, stops, EOS, processors, streaming, cancelling; each row for itself."""

import threading

import pytest
import torch
from shelf import shared_shelf
from transformers import LogitsProcessor, LogitsProcessorList, TextStreamer
from transformers.generation.logits_process import NoRepeatNGramLogitsProcessor, RepetitionPenaltyLogitsProcessor

from ssft.errors import ConfigError, GenerationError
from ssft.runtime.model import MultiAdapterModel

PROMPTS = ["say 12:", "tell me, please", "x", "one more prompt"]
ADAPTERS = ["deep", "many", None, "projected"]
TOKENS = 24


@pytest.fixture(scope="module")
def shelf():
    return shared_shelf("llama")


@pytest.fixture(scope="module")
def model(shelf):
    model = MultiAdapterModel.from_pretrained(shelf.base, dtype="float32", device_map="cpu")
    for path in shelf.paths.values():
        model.load_adapter(path)
    return model


def ids(model, text):
    return model.tokenizer(text)["input_ids"]


def test_an_unloaded_base_answers_for_no_adapter(shelf):
    model = MultiAdapterModel.from_pretrained(shelf.base, dtype="float32", device_map="cpu")
    model.load_adapter(shelf.paths["deep"], "deep")
    model.unload()
    for adapter in ("deep", None):
        with pytest.raises(GenerationError, match="the base was unloaded from this object"):
            model.generate(PROMPTS[0], adapter, max_new_tokens=2)


def plain(shelf, model, row, tokens=TOKENS):
    """Row `row`'s greedy token ids without any end."""
    return shelf.reference(ids(model, PROMPTS[row]), ADAPTERS[row], tokens)


def text_of(model, token_ids):
    return model.tokenizer.decode(token_ids, skip_special_tokens=True)


def run(model, **settings):
    settings = {"max_new_tokens": TOKENS, "ignore_eos": True, "return_dict": True, "adapter": ADAPTERS, **settings}
    return model.generate(PROMPTS, **settings)


# --- forms of a prompt and of an answer ---


def test_one_prompt_gives_a_string_and_a_list_gives_a_list(shelf, model):
    settings = {"adapter": "deep", "max_new_tokens": 8, "ignore_eos": True}
    expected = text_of(model, plain(shelf, model, 0, 8))
    assert model.generate(PROMPTS[0], **settings) == expected
    assert model.generate([PROMPTS[0]], **settings) == [expected]
    assert model.generate(ids(model, PROMPTS[0]), **settings) == expected
    assert model.generate(torch.tensor(ids(model, PROMPTS[0])), **settings) == expected
    assert model.generate(torch.tensor([ids(model, PROMPTS[0])] * 2), **settings) == [expected] * 2
    assert model.generate({"prompt": PROMPTS[0]}, **settings) == expected
    assert model.generate([], **settings) == []


def test_a_chat_goes_through_the_template(model):
    chat = [{"role": "user", "content": "hi"}]
    expected = model.generate("user: hi\nassistant: ", max_new_tokens=8)
    assert model.generate(chat, max_new_tokens=8) == expected
    assert model.generate([chat, "x"], max_new_tokens=8)[0] == expected
    assert model.generate({"messages": chat}, max_new_tokens=8) == expected


def test_return_dict_says_all_about_a_row(shelf, model):
    result = run(model)[0]
    assert result["token_ids"] == plain(shelf, model, 0)
    assert result["text"] == text_of(model, result["token_ids"])
    assert result["tokens"] == TOKENS
    assert result["calls"] == 1 + sum(result["accepted"])
    assert result["finish_reason"] == "length"
    assert result["adapter"] == "deep"
    assert 0 < result["seconds"] < 60


def test_batch_size_changes_nothing_but_the_batches(model):
    facts = [[row[key] for key in ("token_ids", "calls", "adapter")] for row in run(model)]
    for size in (1, 3):
        assert [[row[key] for key in ("token_ids", "calls", "adapter")] for row in run(model, batch_size=size)] == facts


# --- where a text ends ---


def test_every_row_has_its_own_limit(shelf, model):
    limits = [1, 7, 24, 3]
    for row, result in enumerate(run(model, max_new_tokens=limits)):
        assert result["token_ids"] == plain(shelf, model, row)[: limits[row]]


def test_eos_ends_a_row_and_is_its_last_token(shelf, model):
    expected = [plain(shelf, model, row) for row in range(4)]
    eos = expected[0][9]
    model.eos_token_ids, before = {eos}, model.eos_token_ids
    try:
        results = run(model, ignore_eos=False)
    finally:
        model.eos_token_ids = before
    for result, full in zip(results, expected, strict=True):
        end = full.index(eos) + 1 if eos in full else TOKENS
        assert result["token_ids"] == full[:end]
        assert result["finish_reason"] == ("eos" if eos in full else "length")
        assert result["text"] == text_of(model, full[:end][: -1 if eos in full else None])


def test_stop_token_ids_end_a_row_wherever_they_fall(shelf, model):
    """Every place of the text, so also inside accepted runs and at their edges."""
    full = plain(shelf, model, 0)
    for place, token in enumerate(full):
        (result,) = model.generate(
            [PROMPTS[0]], "deep", max_new_tokens=TOKENS, ignore_eos=True, stop_token_ids=token, return_dict=True
        )
        end = full.index(token)
        assert end <= place
        assert (result["token_ids"], result["finish_reason"]) == (full[: end + 1], "stop")
        assert result["text"] == text_of(model, full[:end])


def test_stop_strings_cut_the_text_exactly(shelf, model):
    full = text_of(model, plain(shelf, model, 0))
    for begin in range(1, len(full) - 3, 2):
        stop = full[begin : begin + 3]
        (result,) = model.generate(
            [PROMPTS[0]], "deep", max_new_tokens=TOKENS, ignore_eos=True, stop=["never ever", stop], return_dict=True
        )
        assert result["text"] == full[: full.index(stop)]
        assert result["finish_reason"] == "stop"
        assert text_of(model, result["token_ids"]) == full[: full.index(stop) + 3]


def test_stops_differ_per_row(shelf, model):
    fulls = [plain(shelf, model, row) for row in range(4)]
    stop = text_of(model, fulls[1])[5:8]
    results = run(model, stop=[None, [stop], None, None], stop_token_ids=[[fulls[0][4]], None, None, [fulls[3][6]]])
    assert results[0]["token_ids"] == fulls[0][: fulls[0].index(fulls[0][4]) + 1]
    assert results[1]["text"] == text_of(model, fulls[1]).split(stop)[0]
    assert results[2]["token_ids"] == fulls[2]
    assert results[3]["token_ids"] == fulls[3][: fulls[3].index(fulls[3][6]) + 1]
    assert [r["finish_reason"] for r in results] == ["stop", "stop", "length", "stop"]


# --- processors ---


@pytest.mark.parametrize(
    "processor",
    [RepetitionPenaltyLogitsProcessor(1.5), NoRepeatNGramLogitsProcessor(2)],
    ids=["repetition_penalty", "no_repeat_ngram"],
)
def test_processors_see_each_nodes_own_path(shelf, model, processor):
    results = run(model, logits_processor=LogitsProcessorList([processor]))
    for row, result in enumerate(results):
        prompt = torch.tensor([ids(model, PROMPTS[row])])
        with shelf.reference.model(ADAPTERS[row]) as reference:
            reference.generation_config.eos_token_id = None
            expected = reference.generate(
                input_ids=prompt,
                attention_mask=torch.ones_like(prompt),
                do_sample=False,
                max_new_tokens=TOKENS,
                pad_token_id=0,
                logits_processor=LogitsProcessorList([processor]),
            )[0, prompt.shape[1] :].tolist()
        assert result["token_ids"] == expected
    assert [r["token_ids"] for r in results] != [plain(shelf, model, row) for row in range(4)]
    assert sum(r["calls"] for r in results) < 4 * TOKENS


def test_processors_may_differ_per_row(shelf, model):
    results = run(model, logits_processor=[[RepetitionPenaltyLogitsProcessor(1.5)], None, None, None])
    assert results[0]["token_ids"] != plain(shelf, model, 0)
    assert all(results[row]["token_ids"] == plain(shelf, model, row) for row in (1, 2, 3))


class Failing(LogitsProcessor):
    def __init__(self, after):
        self.left = after

    def __call__(self, input_ids, scores):
        self.left -= 1
        if self.left < 0:
            raise RuntimeError("the processor of row 1 failed")
        return scores


@pytest.mark.parametrize("after", [0, 1, 7])
def test_a_failing_processor_leaves_the_model_usable(shelf, model, after):
    with pytest.raises(RuntimeError, match="the processor of row 1 failed"):
        run(model, logits_processor=[None, [Failing(after)], None, None])
    assert all(adapter.users == 0 for adapter in model.adapters().values())
    assert [r["token_ids"] for r in run(model)] == [plain(shelf, model, row) for row in range(4)]


def test_a_failing_stop_check_leaves_the_model_usable(shelf, model, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr("ssft.decoding.stops.StopStrings.__call__", lambda self, ids: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            run(model, stop=[None, ["never"], None, None])
    assert [r["token_ids"] for r in run(model)] == [plain(shelf, model, row) for row in range(4)]


# --- streaming and cancelling ---


@pytest.mark.parametrize("stopped", [False, True])
def test_pieces_joined_are_the_text(shelf, model, stopped):
    for row, (prompt, adapter) in enumerate(zip(PROMPTS, ADAPTERS, strict=True)):
        settings = {"max_new_tokens": TOKENS, "ignore_eos": True}
        full = text_of(model, plain(shelf, model, row))
        if stopped:
            settings["stop"] = full[10:12]
        pieces = list(model.stream(prompt, adapter, **settings))
        assert "".join(pieces) == model.generate(prompt, adapter, **settings)
        assert len(pieces) > 1 or stopped
        assert all(pieces)


def test_a_closed_stream_cancels_and_holds_nothing(model):
    stream = model.stream(PROMPTS[0], "deep", max_new_tokens=TOKENS, ignore_eos=True)
    next(stream)
    assert model.adapters()["deep"].users == 1
    stream.close()
    assert model.adapters()["deep"].users == 0


def test_a_text_streamer_prints_the_text(model, capsys):
    settings = {"max_new_tokens": TOKENS, "ignore_eos": True}
    text = model.generate(
        PROMPTS[0],
        "deep",
        streamer=TextStreamer(model.tokenizer, skip_prompt=True, skip_special_tokens=True),
        **settings,
    )
    assert capsys.readouterr().out == text + "\n"
    model.generate(PROMPTS[0], "deep", streamer=TextStreamer(model.tokenizer, skip_special_tokens=True), **settings)
    assert capsys.readouterr().out == PROMPTS[0] + text + "\n"


def test_a_streamer_takes_one_prompt(model):
    with pytest.raises(GenerationError, match="one prompt can be streamed, 4 were given"):
        run(model, streamer=TextStreamer(model.tokenizer))
    with pytest.raises(GenerationError, match="stream takes one prompt, 2 were given"):
        model.stream(["a", "b"])


def test_cancel_ends_a_call_between_two_passes(shelf, model):
    cancel = threading.Event()

    def check(input_ids, scores):
        if input_ids.shape[1] > len(ids(model, PROMPTS[0])) + 4:
            cancel.set()
        return scores

    results = run(model, logits_processor=[[check], None, None, None], cancel=cancel)
    for row, result in enumerate(results):
        assert result["finish_reason"] == "cancelled"
        assert 0 < result["tokens"] < TOKENS
        assert result["token_ids"] == plain(shelf, model, row)[: result["tokens"]]
    assert [r["finish_reason"] for r in run(model)] == ["length"] * 4


# --- what cannot be served ---


@pytest.mark.parametrize(
    ("prompts", "settings", "error", "message"),
    [
        (["a", "b"], {"adapter": ["deep"]}, GenerationError, "adapter has 1 entries for 2 prompts"),
        (["a"], {"adapter": "dep"}, ConfigError, "adapter 'dep' is not loaded; loaded are: 'deep'"),
        (["a"], {"adapter": 7}, GenerationError, "adapter=7: expected a name"),
        (["a"], {"max_new_tokens": 0}, GenerationError, "max_new_tokens=0: at least one"),
        (["a", "b"], {"max_new_tokens": [1, 2, 3]}, GenerationError, "max_new_tokens has 3 entries for 2"),
        (["a"], {"stop": ""}, GenerationError, "stop"),
        (["a"], {"stop": [1]}, ConfigError, "stop=.*expected a string"),
        (["a"], {"stop_token_ids": "x"}, ConfigError, "stop_token_ids='x': expected token ids"),
        (["a"], {"batch_size": 0}, GenerationError, "batch_size=0, expected a whole number from 1, or None"),
        ([""], {}, GenerationError, "a prompt has no tokens"),
        ([[]], {}, GenerationError, "a prompt is a list"),
        (3, {}, GenerationError, "prompts is a int; give a text"),
        ([None], {}, GenerationError, "a prompt is a NoneType"),
        ({"question": "?"}, {}, GenerationError, "it needs `prompt` or `messages`"),
        ([[{"role": "user"}]], {}, GenerationError, "chat template refuses the messages .*content"),
        (["a" * 5000], {}, GenerationError, "a prompt has 5000 tokens, but the model's context holds 4096"),
    ],
)
def test_wrong_input_is_named(model, prompts, settings, error, message):
    with pytest.raises(error, match=message):
        model.generate(prompts, **settings)


def test_merging_is_refused_with_the_reason(model):
    with pytest.raises(ConfigError, match=r"would change the text of all others.*4-bit base could not hold it"):
        model.merge_and_unload()


def test_transformers_own_generate_decodes_with_an_adapter_and_its_streams(shelf, model):
    rows = [ids(model, prompt) for prompt in PROMPTS[:2]]
    width = max(map(len, rows))
    batch = torch.tensor([[0] * (width - len(row)) + row for row in rows])
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows])
    for name in ("deep", "lossless", None):
        model.set_adapter(name)
        generate = model.custom_generate()
        model.set_adapter("many")
        output = model.model.generate(
            input_ids=batch,
            attention_mask=mask,
            custom_generate=generate,
            max_new_tokens=12,
            do_sample=False,
            eos_token_id=[96],
            pad_token_id=0,
        )
        for row, found in zip(rows, output[:, width:].tolist(), strict=True):
            expected = shelf.reference(row, name, 12, (96,))
            assert found[: len(expected)] == expected
    with pytest.raises(ConfigError, match="adapter 'nobody' is not loaded"):
        model.custom_generate("nobody")
    model.set_adapter(None)
