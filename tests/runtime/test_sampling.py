"""Drawn tokens through `generate`, `stream`, `complete` and transformers' own `generate`."""

import numpy as np
import pytest
import torch
from peft_user import PeftUser
from shelf import shared_shelf

from ssft.decoding.step import Step
from ssft.errors import GenerationError
from ssft.runtime.model import MultiAdapterModel

PROMPTS = ["say 12:", "tell me, please", "x", "one more prompt"]
ADAPTERS = ["deep", "many", None, "projected"]
TOKENS = 16
SETTINGS = {
    "temperature": [0.7, 1.0, 1.6, 1.2],
    "top_k": [None, 20, None, 5],
    "repetition_penalty": [1.3, None, None, 0.9],
    "min_new_tokens": 4,
    "seed": [3, 2**62, 3, 4],
}


@pytest.fixture(scope="module", params=["llama", "mistral"])
def model(request):
    shelf = shared_shelf(request.param)
    model = MultiAdapterModel.from_pretrained(shelf.base, dtype="float32", device_map="cpu")
    for path in shelf.paths.values():
        model.load_adapter(path)
    return model


def of_row(row):
    return {name: value[row] if isinstance(value, list) else value for name, value in SETTINGS.items()}


def facts(answers):
    return [(answer["token_ids"], answer["seed"], answer["text"]) for answer in answers]


def test_a_mixed_batch_with_streams_is_each_row_plain_and_alone(model):
    common = {"max_new_tokens": TOKENS, "return_dict": True}
    streamed = model.generate(PROMPTS, ADAPTERS, **SETTINGS, **common)
    plain = model.generate(PROMPTS, ADAPTERS, **SETTINGS, **common, speculate=False)
    alone = [model.generate(PROMPTS[row], ADAPTERS[row], **of_row(row), **common) for row in range(4)]
    assert facts(streamed) == facts(plain) == facts(alone)
    assert sum(answer["calls"] for answer in streamed) < sum(answer["calls"] for answer in plain)
    assert [answer["seed"] for answer in streamed] == SETTINGS["seed"]
    greedy = model.generate(PROMPTS, ADAPTERS, **common)
    assert all(a["token_ids"] != b["token_ids"] for a, b in zip(streamed, greedy, strict=True))
    assert "seed" not in greedy[0]


def test_stream_and_complete_say_what_generate_says(model):
    row = {"max_new_tokens": TOKENS, **of_row(1)}
    expected = model.generate(PROMPTS[1], "many", return_dict=True, **row)
    stream = model.stream(PROMPTS[1], "many", **row)
    assert "".join(stream) == expected["text"]
    assert stream.output["token_ids"] == expected["token_ids"]
    (result,) = model.complete([model.encode(PROMPTS[1])], "many", **row)
    assert result.token_ids == expected["token_ids"]


def test_answers_to_one_prompt_have_seeds_in_a_row_and_its_prompt_is_computed_once(model, monkeypatch):
    sizes, real = [], Step.prompts

    def prompts(self, rows):
        sizes.append(len(rows))
        return real(self, rows)

    monkeypatch.setattr(Step, "prompts", prompts)
    settings = {"max_new_tokens": TOKENS, "temperature": 1.1, "return_dict": True}
    both = model.generate(PROMPTS[:2], ADAPTERS[:2], seed=[5, 80], num_return_sequences=3, **settings)
    assert sizes == [2]
    for answers, prompt, adapter, seed in zip(both, PROMPTS[:2], ADAPTERS[:2], (5, 80), strict=True):
        alone = [model.generate(prompt, adapter, seed=seed + i, **settings) for i in range(3)]
        assert facts(answers) == facts(alone)
        assert len({answer["text"] for answer in answers}) == 3
    texts = model.generate(PROMPTS[0], "deep", seed=5, num_return_sequences=3, max_new_tokens=TOKENS, temperature=1.1)
    assert texts == [answer["text"] for answer in both[0]]


def test_without_a_seed_torchs_generator_gives_one_to_each_row(model):
    settings = {"max_new_tokens": TOKENS, "do_sample": True, "return_dict": True}
    torch.manual_seed(1)
    first = model.generate([PROMPTS[0]] * 2, "deep", **settings)
    torch.manual_seed(1)
    assert facts(model.generate([PROMPTS[0]] * 2, "deep", **settings)) == facts(first)
    assert first[0]["token_ids"] != first[1]["token_ids"]
    assert facts([model.generate(PROMPTS[0], "deep", seed=first[1]["seed"], **settings)]) == facts(first[1:])


def test_settings_without_drawing_stay_greedy(model):
    settings = {"max_new_tokens": TOKENS, "return_dict": True}
    greedy = model.generate(PROMPTS[0], "deep", **settings)
    assert model.generate(PROMPTS[0], "deep", do_sample=False, **settings)["token_ids"] == greedy["token_ids"]
    banned = model.generate(PROMPTS[0], "deep", bad_words_ids=[[greedy["token_ids"][0]]], **settings)
    assert greedy["token_ids"][0] not in banned["token_ids"]
    assert "seed" not in banned


def test_log_probabilities_are_the_models_own_token_by_token(model):
    settings = {"max_new_tokens": TOKENS, "return_dict": True, "logprobs": True, "top_logprobs": 3}
    for how in ({}, of_row(3), of_row(0)):
        streamed = model.generate(PROMPTS, ADAPTERS, **how, **settings)
        for row, answer in enumerate(streamed):
            ids = model.encode(PROMPTS[row])
            with torch.inference_mode(), model.applied(adapter=ADAPTERS[row]):
                logits = model.model(torch.tensor([ids + answer["token_ids"]])).logits[0, len(ids) - 1 : -1]
            exact = logits.log_softmax(-1)
            places = torch.arange(len(answer["token_ids"]))
            torch.testing.assert_close(torch.tensor(answer["logprobs"]), exact[places, answer["token_ids"]])
            best = exact.topk(3)
            assert [list(place) for place in answer["top_logprobs"]] == best.indices.tolist()
            torch.testing.assert_close(torch.tensor([[*p.values()] for p in answer["top_logprobs"]]), best.values)
            if not how:
                assert [place[0] for place in best.indices.tolist()] == answer["token_ids"]
    plain = model.generate(PROMPTS[0], max_new_tokens=4, return_dict=True)
    assert "logprobs" not in plain
    assert "top_logprobs" not in model.generate(PROMPTS[0], max_new_tokens=4, return_dict=True, logprobs=True)


WRONG = {
    "temperature": [
        (-1, "temperature=-1, expected a number from 0.001 to 1000"),
        (0, "temperature=0, expected a number from 0.001 to 1000"),
        (float("nan"), "temperature=nan, expected a number from 0.001"),
        ("1", "temperature='1', expected a number"),
        (True, "temperature=True, expected a number"),
        ([0.5, 0.5], "temperature has 2 entries for 1 prompts"),
    ],
    "top_p": [(0, "top_p=0, expected a number above 0, at most 1"), (1.1, "top_p=1.1, expected a number above 0")],
    "top_k": [(0, "top_k=0, expected a whole number from 1"), (2.0, "top_k=2.0, expected a whole number from 1")],
    "min_p": [(2, "min_p=2, expected a number above 0, at most 1")],
    "typical_p": [(-0.1, "typical_p=-0.1, expected a number above 0, at most 1")],
    "repetition_penalty": [(0, "repetition_penalty=0, expected a number above 0, at most 1000")],
    "presence_penalty": [(2.5, "presence_penalty=2.5, expected a number from -2 to 2")],
    "frequency_penalty": [(float("inf"), "frequency_penalty=inf, expected a number from -2 to 2")],
    "no_repeat_ngram_size": [(-1, "no_repeat_ngram_size=-1, expected a whole number from 1")],
    "bad_words_ids": [
        ([], r"bad_words_ids=\[\], expected a list of words, each a list of token ids"),
        ([[]], r"bad_words_ids=\[\[\]\], expected a list of words"),
        ([5], r"bad_words_ids=\[5\], expected a list of words"),
        ([[98]], "bad_words_ids has the token id 98, but the model knows 0 to 97 only"),
    ],
    "sequence_bias": [
        ({5: 1.0}, "expected a dict from tuples of token ids to numbers"),
        ({(): 1.0}, "sequence_bias has an entry without token ids"),
        ({(98,): 1.0}, "sequence_bias has the token id 98, but the model knows 0 to 97 only"),
        ({(5,): float("inf")}, "expected a dict from tuples of token ids to numbers"),
    ],
    "min_new_tokens": [
        (-1, "min_new_tokens=-1, expected a whole number from 0"),
        (9, "min_new_tokens=9, but the answer may have 4 tokens; lower min_new_tokens"),
    ],
    "seed": [(-1, "seed=-1, expected a whole number from 0, below 2"), (2**63, "seed=9223372036854775808, expected")],
    "do_sample": [(1, "do_sample=1, expected bool")],
    "num_return_sequences": [
        (0, "num_return_sequences=0, expected a whole number from 1"),
        (2, "num_return_sequences=2: without sampling all answers of a prompt are the same; give do_sample=True"),
    ],
    "logprobs": [(1, "logprobs=1, expected True or False")],
    "top_logprobs": [(-1, "top_logprobs=-1, expected a whole number from 0")],
    "temprature": [(1, "temprature is no setting of this call; did you mean 'temperature'?")],
    "schema": [({}, "schema is no setting of this call; did you mean 'json_schema'?")],
    "logit_bias": [({}, "logit_bias is no setting of this call; did you mean 'sequence_bias'?")],
    "guidance": [(1, "guidance is no setting of this call; how tokens are chosen is told by do_sample, temperature,")],
}


@pytest.mark.parametrize(("name", "value", "told"), [(name, *case) for name, cases in WRONG.items() for case in cases])
def test_wrong_settings_are_told_at_the_call(model, name, value, told):
    with pytest.raises(GenerationError, match=told):
        model.generate(PROMPTS[:1] if isinstance(value, list) else PROMPTS[0], max_new_tokens=4, **{name: value})
    if name not in ("num_return_sequences", "logprobs", "top_logprobs"):
        with pytest.raises(GenerationError, match=told):
            model.stream(PROMPTS[0], max_new_tokens=4, **{name: value})


@pytest.mark.parametrize("name", ["temperature", "top_k", "top_p", "min_p", "typical_p", "seed"])
def test_settings_of_drawing_contradict_do_sample_false(model, name):
    with pytest.raises(GenerationError, match=f"do_sample=False with {name}=1: the likeliest token is taken"):
        model.generate(PROMPTS[0], do_sample=False, **{name: 1})


def test_numbers_of_numpy_are_numbers(model):
    settings = {"max_new_tokens": 4, "temperature": np.float64(0.8)}
    expected = model.generate(PROMPTS[0], seed=5, top_k=9, **settings)
    assert model.generate(PROMPTS[0], seed=np.int64(5), top_k=np.int32(9), **settings) == expected


# --- transformers' own call ---


@pytest.fixture(scope="module")
def user(tmp_path_factory):
    return PeftUser(tmp_path_factory.mktemp("llama"), "llama")


def drawn(user, seed=0, rows=(0, 2), **settings):
    torch.manual_seed(seed)
    settings = {"do_sample": True, "top_k": None, "max_new_tokens": TOKENS, **settings}
    return user.model.generate(**user.inputs(list(rows)), custom_generate=user.generate, **settings).tolist()


@pytest.mark.parametrize("settings", [{}, {"temperature": 1.4, "top_p": 0.9, "repetition_penalty": 1.2}])
def test_transformers_generate_draws_the_same_with_streams_and_without(user, settings, monkeypatch):
    streamed = drawn(user, **settings)
    calls = sum(result.calls for result in user.generate.last)
    assert streamed != drawn(user, seed=1, **settings)
    monkeypatch.setattr(user.generate, "drafter", None)
    assert drawn(user, **settings) == streamed
    assert sum(result.calls for result in user.generate.last) > calls


def test_transformers_generate_gives_several_answers(user):
    sequences = drawn(user, rows=[0], num_return_sequences=4, temperature=1.2)
    assert len({tuple(sequence) for sequence in sequences}) == 4
    (alone,) = drawn(user, rows=[0], temperature=1.2)
    assert sequences[0][: len(alone)] == alone  # padded where another answer is longer


def test_transformers_generate_draws_from_the_distribution_of_transformers(user):
    settings = {"temperature": 0.7, "top_k": 6, "num_return_sequences": 2000, "max_new_tokens": 1}
    ours = [sequence[-1] for sequence in drawn(user, rows=[0], **settings)]
    torch.manual_seed(0)
    theirs = user.plain.generate(**user.inputs([0]), do_sample=True, **settings)[:, -1].tolist()
    tokens = sorted({*ours, *theirs})
    assert 1 < len(tokens) <= 6
    for token in tokens:
        assert abs(ours.count(token) - theirs.count(token)) < 5 * 2 * 2000**0.5 / 2
