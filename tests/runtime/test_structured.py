"""`json_schema`, `regex` and `grammar` through `generate`, `stream` and `complete`."""

import copy
import dataclasses
import json
import math
import re
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from byte_models import ADAPTERS, FORMS, GRAMMAR, PROMPTS, REGEX, SCHEMA, Oracle, model_of
from covering import covering
from embedded_base import BASE, needs_base
from shelf import SHELF, save_adapter, shared_shelf

from ssft.base.embedded import base_path
from ssft.base.load import load_base
from ssft.decoding.grammar.engine import compile_grammar, given
from ssft.errors import GenerationError
from ssft.runtime.model import MultiAdapterModel

TOKENS = 60
CHOICES = {
    "greedy": {},
    "drawn": {"temperature": 1.3, "seed": [1, 2, 2**62, 4]},
    "narrowed": {"top_p": 0.4, "top_k": [9, 40, 5, 3], "seed": 3},
    "penalised": {"repetition_penalty": 1.4, "no_repeat_ngram_size": [None, 7, None, 9], "min_new_tokens": 3},
}


def fits(form, text):
    """Whether a whole text has the form, told without the engine."""
    if form == "regex":
        return re.fullmatch(REGEX, text) is not None
    if form == "grammar":
        words = re.fullmatch(r"items((?: <*\d{1,3}>*)+)\.", text)
        return words is not None and all(w.count("<") == w.count(">") for w in words[1].split())
    value = json.loads(text)
    assert list(value) == ["name", "kind", "items"]
    assert isinstance(value["name"], str)
    assert len(value["name"]) <= 5
    assert value["kind"] in ("select", "count", 5, None)
    assert 1 <= len(value["items"]) <= 2
    for item in value["items"]:
        assert set(item) == {"count", "ok"}
        assert type(item["count"]) is int
        assert -99 <= item["count"] <= 999
        assert type(item["ok"]) is bool
    return json.dumps(value, ensure_ascii=False) == text or "\\" in text


@pytest.fixture(params=["llama", "mistral"])
def model(request):
    return model_of(request.param)


def of_row(settings, row):
    return {name: value[row] if isinstance(value, list) else value for name, value in settings.items()}


def reference(model, prompt, adapter, form, tokens=TOKENS):
    """Greedy text by transformers' own `generate`, masked by an engine that goes through all of it at every token."""
    ids = torch.tensor([model.encode(prompt)])
    grammar = compile_grammar(*given(**{form: FORMS[form]}), model.tokenizer, model.eos_token_ids)

    def permit(_batch, sent):
        matcher = grammar.start()
        assert matcher.consume_tokens(sent[ids.shape[1] :].tolist()) or len(sent) == ids.shape[1]
        mask = matcher.compute_bitmask()
        return [token for token in range(len(model.tokenizer)) if mask[token // 8] >> token % 8 & 1]

    with model.applied(adapter=adapter):
        sequence = model.model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            do_sample=False,
            max_new_tokens=tokens,
            prefix_allowed_tokens_fn=permit,
        )
    return sequence[0, ids.shape[1] :].tolist()


@pytest.mark.parametrize("form", FORMS)
def test_a_mixed_batch_says_what_transformers_says_under_the_same_mask(model, form):
    answers = model.generate(PROMPTS, ADAPTERS, **{form: FORMS[form]}, max_new_tokens=TOKENS, return_dict=True)
    for prompt, adapter, answer in zip(PROMPTS, ADAPTERS, answers, strict=True):
        assert answer["token_ids"] == reference(model, prompt, adapter, form)
        assert (answer["finish_reason"] == "eos") == (answer["token_ids"][-1] in model.eos_token_ids)
        if answer["finish_reason"] == "eos":
            assert fits(form, answer["text"])


@covering(architecture=["llama", "mistral"], form=list(FORMS), how=CHOICES, rows=[1, 4])
def test_streams_neighbours_and_forced_tokens_change_no_token(architecture, form, how, rows):
    model = model_of(architecture)
    common = {form: FORMS[form], "max_new_tokens": TOKENS, "return_dict": True}
    how = {key: given[:rows] if isinstance(given, list) else given for key, given in how.items()}
    streamed = model.generate(PROMPTS[:rows], ADAPTERS[:rows], **how, **common)
    plain = model.generate(PROMPTS[:rows], ADAPTERS[:rows], **how, **common, speculate=False)
    for row, (answer, other) in enumerate(zip(streamed, plain, strict=True)):
        alone = model.generate(PROMPTS[row], ADAPTERS[row], **of_row(how, row), **common)
        assert answer["token_ids"] == other["token_ids"] == alone["token_ids"]
        assert other["calls"] == other["tokens"]
        if form != "grammar":  # where all but the first token is a choice
            assert answer["calls"] < answer["tokens"]  # forced tokens are drafted with streams and without
        if answer["finish_reason"] == "eos":
            assert fits(form, answer["text"])


def test_every_row_may_have_a_form_of_its_own_or_none(model):
    settings = {"json_schema": [SCHEMA, None, None, None], "regex": [None, REGEX, None, None]}
    settings["grammar"] = [None, None, GRAMMAR, None]
    common = {"max_new_tokens": TOKENS, "return_dict": True}
    answers = model.generate(PROMPTS, ADAPTERS, **settings, **common)
    for row, answer in enumerate(answers):
        alone = model.generate(PROMPTS[row], ADAPTERS[row], **of_row(settings, row), **common)
        assert answer["token_ids"] == alone["token_ids"]
    free = model.generate(PROMPTS[3], ADAPTERS[3], **common)
    assert free["token_ids"] == answers[3]["token_ids"]
    assert len({tuple(answer["token_ids"]) for answer in answers}) == 4


@pytest.mark.parametrize("form", FORMS)
def test_whatever_a_model_says_the_text_fits(model, form):
    answers = model.generate(
        PROMPTS, ADAPTERS, **{form: FORMS[form]}, max_new_tokens=200, temperature=2.0, seed=9, num_return_sequences=8
    )
    texts = [text for row in answers for text in row]
    assert len(set(texts)) > 16
    whole = [text for text in texts if text.endswith({"json_schema": "]}", "regex": "end", "grammar": "."}[form])]
    assert len(whole) > 24  # the others ran into max_new_tokens
    assert all(fits(form, text) for text in whole)


def test_stream_and_complete_say_what_generate_says(model):
    row = {"max_new_tokens": TOKENS, "json_schema": json.dumps(SCHEMA), "temperature": 0.9, "seed": 6}
    expected = model.generate(PROMPTS[0], "many", return_dict=True, **row)
    stream = model.stream(PROMPTS[0], "many", **row)
    assert "".join(stream) == expected["text"]
    assert stream.output["token_ids"] == expected["token_ids"]
    (result,) = model.complete([model.encode(PROMPTS[0])], "many", **row)
    assert (result.token_ids, result.calls) == (expected["token_ids"], expected["calls"])


@pytest.mark.parametrize("how", ["greedy", "drawn"])
def test_guesses_and_forced_tokens_together_draft_more_than_either(model, how):
    prompt = model.encode(PROMPTS[0])
    common = {"max_new_tokens": TOKENS, "json_schema": SCHEMA, **of_row(CHOICES[how], 0)}
    (plain,) = model.complete([prompt], None, speculate=False, **common)
    (forced,) = model.complete([prompt], None, **common)
    calls = {}
    for drafts in ("never", "sometimes", "always"):
        (found,) = model.complete([prompt], None, drafter=Oracle(drafts, {tuple(prompt): plain.token_ids}), **common)
        assert found.token_ids == plain.token_ids
        calls[drafts] = found.calls
    assert forced.token_ids == plain.token_ids
    assert calls["always"] < calls["sometimes"] < calls["never"] == forced.calls < plain.calls
    assert calls["always"] < 1 + math.ceil((len(plain.token_ids) - 1) / 4)  # no draft of three guesses reaches so far


@pytest.mark.parametrize("how", ["greedy", "drawn"])
@pytest.mark.parametrize("form", FORMS)
def test_a_lookup_changes_no_token_and_drafts_what_comes_again(model, form, how, monkeypatch):
    common = {form: FORMS[form], "max_new_tokens": TOKENS, **CHOICES[how], "return_dict": True}
    found = {}
    for looks_up in (False, True):
        for name in {*ADAPTERS}:
            held = model.bank.get(name)
            monkeypatch.setattr(held, "tree", replace(held.tree, lookup=looks_up))
        found[looks_up] = model.generate(PROMPTS, ADAPTERS, **common)
    plain = model.generate(PROMPTS, ADAPTERS, speculate=False, **common)
    for looks_up, answers in found.items():
        assert [answer["token_ids"] for answer in answers] == [answer["token_ids"] for answer in plain], looks_up
    if form == "json_schema":
        assert [answer["accepted"] for answer in found[True]] != [answer["accepted"] for answer in found[False]]


@pytest.mark.parametrize("form", FORMS)
def test_a_drafter_that_does_not_look_at_the_grammar_changes_no_token(model, form):
    drafter = copy.copy(model.adapters()["deep"].drafter)
    common = {"max_new_tokens": TOKENS, form: FORMS[form]}
    prompts = [model.encode(prompt) for prompt in PROMPTS]
    reading = model.complete(prompts, "deep", **common)
    drafter.reads_grammar = False
    blind = model.complete(prompts, "deep", drafter=drafter, **common)
    assert [row.token_ids for row in blind] == [row.token_ids for row in reading]
    if form != "grammar":
        assert sum(row.calls for row in reading) < sum(row.calls for row in blind)


@pytest.mark.parametrize("form", ["json_schema", "regex"])
def test_a_budget_that_knows_the_cost_drafts_what_is_forced(form):
    model = model_of("llama")
    if "auto" not in model.adapters():
        deep = model.adapters()["deep"]
        model.load_adapter(deep.bundle.path, "auto", tree=dataclasses.replace(deep.tree, budget="auto"))
        free = lambda rows: SimpleNamespace(table=lambda n, m, left: np.ones((n, m + 1)))  # noqa: E731
        model.budget.costs = SimpleNamespace(of=free)
    common = {"max_new_tokens": TOKENS, "return_dict": True, form: FORMS[form]}
    fixed = model.generate(PROMPTS, ["deep", "auto", "auto", None], **common, speculate=False)
    tuned = model.generate(PROMPTS, ["deep", "auto", "auto", None], **common)
    assert [row["token_ids"] for row in tuned] == [row["token_ids"] for row in fixed]
    assert all(row["calls"] < row["tokens"] for row in tuned)


def test_an_end_comes_where_the_form_allows_it_and_only_there(model):
    favoured = {"sequence_bias": {(next(iter(model.eos_token_ids)),): 1e4}}
    answer = model.generate(PROMPTS[0], "deep", regex="(ab)*|c{5}", return_dict=True, **favoured)
    assert (answer["text"], answer["token_ids"]) == ("", [1])
    answer = model.generate(PROMPTS[0], "deep", regex="(ab){3}(ab)*", return_dict=True, **favoured)
    assert (answer["text"], answer["finish_reason"]) == ("ababab", "eos")
    cut = model.generate(PROMPTS[0], "deep", json_schema=SCHEMA, max_new_tokens=7, return_dict=True)
    assert (cut["finish_reason"], cut["tokens"]) == ("length", 7)
    whole = model.generate(PROMPTS[0], "deep", json_schema=SCHEMA, max_new_tokens=TOKENS)
    assert whole.startswith(cut["text"])
    stopped = model.generate(PROMPTS[0], "deep", json_schema=SCHEMA, stop='"kind', max_new_tokens=TOKENS)
    assert stopped == whole[: whole.index('"kind')]


def test_contradictions_are_told(model):
    (x,) = model.encode("x")
    with pytest.raises(GenerationError, match=r"no token is left that may come next: .*a grammar forbids them all"):
        model.generate(PROMPTS[0], "deep", regex="x+", bad_words_ids=[[x]])
    with pytest.raises(GenerationError, match="no token is left that may come next"):
        model.generate(PROMPTS[0], "deep", regex="x", min_new_tokens=4, temperature=1.0)
    with pytest.raises(GenerationError, match=r"regex: a text that is to end where regex says so .*; leave ignore_eos"):
        model.generate(PROMPTS[0], "deep", regex="x", ignore_eos=True)
    with pytest.raises(GenerationError, match="json_schema and regex are given"):
        model.stream(PROMPTS[0], "deep", regex="x", json_schema={})
    with pytest.raises(GenerationError, match="json_schema has 2 entries for 1 prompts"):
        model.generate(PROMPTS[:1], "deep", json_schema=[{}, None])


def test_a_tokenizer_of_unknown_bytes_is_refused_at_the_call():
    other = MultiAdapterModel.from_pretrained(shared_shelf().base, dtype="float32", device_map="cpu")
    with pytest.raises(GenerationError, match="json_schema, regex and grammar need a tokenizer whose tokens are known"):
        other.stream(PROMPTS[0], regex="x")


@pytest.mark.slow
@needs_base
def test_the_embedded_base_keeps_to_a_schema(tmp_path):
    base = base_path(BASE)
    loaded = load_base(base, dtype="float32", device="cpu")
    lora, streams, tree = SHELF["deep"]
    adapter = save_adapter(tmp_path / "deep", base, lora, streams, tree, scale=0.05, loaded=loaded)
    model = MultiAdapterModel(*loaded, base)
    model.load_adapter(adapter)
    prompts = ["A person as JSON: ", "Which kind?\n", "Once upon a time"]
    adapters = ["deep", None, "deep"]
    common = {"json_schema": SCHEMA, "max_new_tokens": 60, "return_dict": True, "temperature": [0.6, None, None]}
    streamed = model.generate(prompts, adapters, seed=[1, None, None], **common)
    plain = model.generate(prompts, adapters, seed=[1, None, None], speculate=False, **common)
    for answer, other in zip(streamed, plain, strict=True):
        assert answer["token_ids"] == other["token_ids"]
        assert answer["finish_reason"] == "eos"
        assert fits("json_schema", answer["text"])
        assert answer["calls"] < 0.8 * answer["tokens"]
