"""The compared methods: found on disk, the same tokens, and the rules of counting."""

from pathlib import Path
from types import SimpleNamespace

import pytest
from built_methods import build, ids
from conftest import tiny_opt
from fake_adapted import fake_adapted, random_prompts

from ssft.bench import methods
from ssft.bench.methods import KINDS, DecodingMethod, Setting, build_methods, method_module, method_names, parse_methods
from ssft.bench.methods._peers import training
from ssft.bench.methods._transformers import truncate
from ssft.errors import ConfigError, GenerationError
from ssft.runtime.batching import length_batches

NAMES = ["plain", "generate", "streaming"]
"""Methods that need nothing trained besides the adapter, and serve batches; the others are in
test_peers.py and test_llama_cpp.py."""


def run(adapted, name, prompts, max_new_tokens=12, batch_size=1):
    return build(adapted, name, max_new_tokens, batch_size).run(prompts)


def test_every_file_is_a_method():
    files = {path.stem for path in Path(methods.__file__).parent.glob("*.py") if path.stem[0] != "_"}
    assert set(method_names()) == files
    assert method_names()[0] == "plain"


@pytest.mark.parametrize("name", method_names())
def test_every_method_keeps_to_the_interface(name):
    module = method_module(name)
    assert issubclass(module.Method, DecodingMethod)
    assert module.Method.DESCRIPTION
    assert module.Method.KIND in KINDS
    assert isinstance(module.Method.LOSSLESS, bool)


@pytest.mark.parametrize("batch_size", [1, 3])
def test_all_methods_give_the_same_tokens(batch_size):
    adapted, prompts = fake_adapted(), random_prompts(5)
    plain = run(adapted, "plain", prompts, batch_size=batch_size)
    for name in NAMES:
        results = run(adapted, name, prompts, batch_size=batch_size)
        assert ids(results) == ids(plain)
        assert [result.finish_reason for result in results] == ["length"] * 5


def test_calls_of_plain_and_generate_are_their_tokens_and_streaming_needs_fewer():
    adapted, prompts = fake_adapted(), random_prompts(4)
    calls = {name: [result.calls for result in run(adapted, name, prompts)] for name in NAMES}
    assert calls["plain"] == calls["generate"] == [12] * 4
    assert sum(calls["streaming"]) < 48


def test_eos_is_counted_and_ends_the_row_wherever_it_comes():
    prompts = random_prompts(4)
    free = ids(run(fake_adapted(), "plain", prompts, max_new_tokens=16))
    for place in range(16):  # among them the first token, and tokens inside an accepted run
        token = free[0][place]
        adapted = fake_adapted(eos=[token])
        expected = [row[: row.index(token) + 1] if token in row else row for row in free]
        for name in NAMES:
            results = run(adapted, name, prompts, max_new_tokens=16, batch_size=4)
            assert ids(results) == expected
            assert [result.finish_reason for result in results] == ["eos" if token in row else "length" for row in free]


def test_eos_as_the_first_token_takes_one_call():
    prompts = random_prompts(1)
    token = ids(run(fake_adapted(), "plain", prompts))[0][0]
    for name in NAMES:
        (result,) = run(fake_adapted(eos=[token]), name, prompts)
        assert (result.token_ids, result.calls) == ([token], 1)


def test_one_token_takes_one_call():
    for name in NAMES:
        (result,) = run(fake_adapted(), name, random_prompts(1), max_new_tokens=1)
        assert (len(result.token_ids), result.calls, result.finish_reason) == (1, 1, "length")


def test_no_prompts_no_results():
    for name in NAMES:
        assert run(fake_adapted(), name, []) == []


def test_the_order_of_the_prompts_is_kept():
    adapted = fake_adapted()
    prompts = [[5] * 9, [6] * 2, [7] * 5, [8] * 3]
    for name in NAMES:
        alone = [ids(run(adapted, name, [prompt]))[0] for prompt in prompts]
        assert ids(run(adapted, name, prompts, batch_size=2)) == alone


def test_a_row_stops_at_the_end_of_the_context_like_plain():
    adapted = fake_adapted(tiny_opt, max_position_embeddings=16)
    prompts = [[5] * 13, [6] * 3]
    results = {name: run(adapted, name, prompts, max_new_tokens=8, batch_size=2) for name in NAMES}
    assert [len(row) for row in ids(results["plain"])] == [3, 8]
    assert ids(results["generate"]) == ids(results["streaming"]) == ids(results["plain"])


@pytest.mark.parametrize("name", NAMES)
def test_the_first_tokens_time_is_part_of_the_rows(name):
    for result in run(fake_adapted(), name, random_prompts(3), batch_size=2):
        assert 0 < result.prompt_seconds < result.seconds


def test_generate_ignores_the_models_own_generation_settings():
    adapted, prompts = fake_adapted(), random_prompts(2)
    expected = ids(run(adapted, "plain", prompts))
    adapted.model.generation_config.repetition_penalty = 5.0
    adapted.model.generation_config.eos_token_id = expected[0][2]
    assert ids(run(adapted, "generate", prompts)) == expected


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("length", [0, 16])
def test_a_prompt_without_tokens_or_room_is_an_error(name, length):
    adapted = fake_adapted(max_position_embeddings=16)
    with pytest.raises(GenerationError, match=r"a prompt is a list \(\[\]\)|a prompt has \d+ tokens"):
        run(adapted, name, [[5] * length])


def test_streaming_needs_streams():
    with pytest.raises(GenerationError, match=r"no streams.*--methods plain,generate"):
        method_module("streaming").Method(Setting(fake_adapted(streams=False), 4, 1))


def test_extra_parameters_are_those_of_the_streams():
    built = build_methods(NAMES, Setting(fake_adapted(), 4, 1))
    counts = {name: method.extra_parameters for name, method in built.items()}
    assert counts == {**dict.fromkeys(NAMES, 0), "streaming": 3 * 64}


def test_training_is_that_of_the_bundle_and_plain_methods_have_none(tmp_path):
    adapted = fake_adapted()
    assert [method.training for method in build_methods(NAMES, Setting(adapted, 4, 1)).values()] == [{}, {}, {}]
    adapted.active.bundle = SimpleNamespace(path=tmp_path, loras=())
    (tmp_path / "provenance.json").write_text('{"train_seconds": 1.5, "history": [{"loss": 1.0}], "steps": 3}')
    (tmp_path / "streams.safetensors").write_bytes(b"12345")
    built = build_methods(NAMES, Setting(adapted, 4, 1))
    assert [method.extra_bytes for method in built.values()] == [0, 0, 5]
    assert {name: method.training for name, method in built.items()} == {
        "plain": {},
        "generate": {},
        "streaming": {"steps": 3, "seconds": 1.5},
    }


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("{broken", {}),
        ("[" * 100_000, {}),
        ("[1]", {}),
        ('{"data": {"train": "rows"}, "steps": true, "train_rows": NaN, "train_seconds": [1], "device": null}', {}),
        ('{"data": "rows", "steps": 4}', {"steps": 4}),
        ('{"data": {"train": {"name": "rows.jsonl"}}, "train_rows": 8}', {"data": "rows.jsonl", "rows": 8}),
    ],
)
def test_a_provenance_tells_what_it_can(tmp_path, text, found):
    assert training(tmp_path) == {}
    (tmp_path / "provenance.json").write_text(text)
    assert training(tmp_path) == found


def test_parse_methods_puts_the_baseline_first_once():
    assert parse_methods("streaming, plain,streaming") == ["plain", "streaming"]
    assert parse_methods("generate") == ["plain", "generate"]
    assert parse_methods(" all ") is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("streming", "method 'streming' is unknown; did you mean 'streaming'"),
        ("qq", "methods are plain"),
        (" ,", "no"),
        ("plain,all", "all stands alone"),
    ],
)
def test_a_wrong_method_is_an_error(text, message):
    with pytest.raises(ConfigError, match=message):
        parse_methods(text)


def test_truncate():
    assert truncate([4, 2, 4], 3, {2}) == ([4, 2], "eos")
    assert truncate([4, 5, 2], 2, {2}) == ([4, 5], "length")
    assert truncate([2, 2], 2, {2}) == ([2], "eos")
    assert truncate([4, 2], 2, set()) == ([4, 2], "length")


def test_length_batches():
    assert length_batches([5, 1, 3, 1], 2) == [[1, 3], [2, 0]]
    assert length_batches([5, 1, 3], 2) == [[1, 2], [0]]
    assert length_batches([], 2) == []
