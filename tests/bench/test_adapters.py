"""`ssft bench adapters` on a tiny base: the shelf, and batches."""

import random
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file
from shelf import SHELF, save_adapter
from tiny_base import save_tiny_base

from ssft.bench import adapters as bench
from ssft.bench.adapters import measure_adapters, measure_shelf
from ssft.bench.adapters_batches import ROWS, compare, filled, loaded, measure_batches
from ssft.bench.identity import top_margin
from ssft.bench.report.adapters import heading, tables
from ssft.bench.rounds import Timed
from ssft.errors import BundleError, ConfigError
from ssft.lora.memory import base_bytes
from ssft.runtime.model import MultiAdapterModel

TOKENS = 4
NAMES = ("deep", "projected")
SMALL = {"max_new_tokens": TOKENS, "rounds": 1, "loads": 6, "progress": False}


@pytest.fixture(scope="module")
def shelf(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shelf")
    base = save_tiny_base(folder / "base")
    paths = {name: save_adapter(folder / name, base, *SHELF[name], seed) for seed, name in enumerate([*NAMES, "small"])}
    draw = random.Random(0)
    prompts = {
        name: [[draw.randrange(2, 97) for _ in range(draw.randint(3, 9))] for _ in range(count)]
        for name, count in zip(NAMES, (8, 3), strict=True)
    }
    return SimpleNamespace(
        base=base, paths={name: paths[name] for name in NAMES}, small=paths["small"], prompts=prompts
    )


@pytest.fixture(scope="module")
def module_model(shelf):
    return MultiAdapterModel.from_pretrained(shelf.base, dtype="float32", device_map="cpu")


@pytest.fixture
def model(module_model):
    yield module_model
    assert not module_model.adapters()


@pytest.fixture(scope="module")
def result(shelf, module_model):
    return measure_adapters(module_model, shelf.paths, shelf.prompts, **SMALL)


def measure(model, shelf, **changes):
    return measure_adapters(model, shelf.paths, shelf.prompts, **{**SMALL, **changes})


@pytest.fixture
def no_shelf(monkeypatch):
    """For tests of batches only."""
    monkeypatch.setattr(bench, "measure_shelf", lambda *_: [])


# --- the shelf ---


def test_what_it_depends_on_is_in_the_result(result, model, shelf):
    assert result.base == "base"
    assert (result.precision, result.max_new_tokens, result.rounds, result.seed) == ("float32", TOKENS, 1, 0)
    assert result.device.startswith("cpu: ")
    assert result.base_bytes == base_bytes(model.model)
    assert result.adapters["deep"]["r"] == 4
    assert result.adapters["deep"]["streams"]["num_streams"] == 3
    assert result.adapters["projected"]["tree"]["max_nodes"] == 31
    assert [facts["prompts"] for facts in result.adapters.values()] == [8, 3]
    for name, path in shelf.paths.items():
        files = [path / "adapter_model.safetensors", path / "streams.safetensors"]
        tensors = [tensor for file in files for tensor in load_file(file).values()]
        # Beside the tensors there are zeros between the B of modules that compute together.
        assert sum(tensor.nbytes for tensor in tensors) < result.adapters[name]["bytes"]
        assert result.adapters[name]["file_bytes"] == sum(file.stat().st_size for file in files)
    assert not result.interrupted
    assert model.active_adapter is None


def test_the_shelf_has_four_points_and_no_tensor_stays(result):
    before, two, all_six, after = result.shelf
    assert [point.loaded for point in result.shelf] == [0, 2, 6, 0]
    assert (before.load_ms, before.switch_us, after.load_ms, after.switch_us) == (None, None, None, None)
    for point in (two, all_six):
        assert 0 < point.switch_us < 1e3 * point.load_ms
    assert before.tensors == after.tensors < two.tensors < all_six.tensors
    assert all(point.process_bytes > 0 and point.allocated_bytes is None for point in result.shelf)


def test_every_timed_call_is_a_switch_and_every_load_has_tensors_of_its_own(model, shelf, monkeypatch):
    done, places = [], set()
    set_adapter = model.set_adapter

    def record(name):
        done.append((name, len(model.adapters())))
        places.update(adapter.lora.buffers[0].data_ptr() for adapter in model.adapters().values())
        set_adapter(name)

    monkeypatch.setattr(bench, "SWITCHES", 4)
    monkeypatch.setattr(bench, "BLOCKS", 3)
    monkeypatch.setattr(model, "set_adapter", record)
    measure_shelf(model, shelf.paths, 5, progress=False)
    timed = [entry for entry in done[1:] if entry[0] is not None]
    pair, ends = ("deep#1", "projected#2"), ("deep#1", "deep#5")
    assert timed == [(name, 2) for name in pair * 6] + [(name, 5) for name in ends * 6]
    assert len(places) >= 5


def test_load_times_are_those_of_the_last_five(model, shelf, monkeypatch):
    clock = {"now": 0.0, "loads": 0}
    load_adapter = model.load_adapter

    def load(path, name):
        if "#" in name:
            clock["loads"] += 1
            clock["now"] += clock["loads"]
        return load_adapter(path, name)

    monkeypatch.setattr(bench.time, "perf_counter", lambda: clock["now"])
    monkeypatch.setattr(model, "load_adapter", load)
    points = measure_shelf(model, shelf.paths, 9, progress=False)
    assert [point.load_ms for point in points] == [None, 1500, 7000, None]


def test_what_a_deleted_adapter_leaves_behind_is_seen(model, shelf, monkeypatch):
    kept = []
    delete_adapter = model.delete_adapter

    def leak(name):
        kept.append(torch.zeros(1))
        delete_adapter(name)

    monkeypatch.setattr(model, "delete_adapter", leak)
    before, *_, after = measure_shelf(model, shelf.paths, 5, progress=False)
    assert after.tensors - before.tensors == 5


# --- batches ---


def test_mixed_batches_and_batches_of_one_adapter(result):
    assert (result.mixed_rows, result.differences) == (16, {"deep": [], "projected": []})
    copies, tasks, *sizes = result.comparisons
    assert (copies.title, copies.rows, copies.identical) == ("mixed copies", 8, 8)
    assert list(copies.tokens_per_second) == ["one adapter", "four copies"]
    assert (tasks.title, tasks.rows, tasks.identical) == ("mixed tasks", 16, None)
    assert list(tasks.tokens_per_second) == ["apart", "mixed"]
    assert [found.title for found in sizes] == [f"batches of {size}" for size in (1, 2, 4, 8)]
    for found in sizes:
        assert found.identical == found.rows == 8
        assert list(found.tokens_per_second) == ["plain", "streaming"]
        assert 1 <= found.tokens_per_call == sizes[0].tokens_per_call
    assert all(found.ratio > 0 for found in result.comparisons)


@pytest.mark.usefixtures("no_shelf")
def test_a_single_adapter_has_no_tasks_to_mix(model, shelf):
    result = measure_adapters(model, {"deep": shelf.paths["deep"]}, shelf.prompts, **{**SMALL, "max_new_tokens": 2})
    assert [found.title for found in result.comparisons][:2] == ["mixed copies", "batches of 1"]
    assert (result.mixed_rows, result.differences) == (8, {"deep": []})


def test_both_ways_have_the_same_rows(model, shelf, result, monkeypatch):
    """Rows of one adapter per batch, then the same rows mixed; copies with tensors of their own."""
    calls, places = [], {}
    generate = model.generate

    def record(prompts, adapter, speculate, **settings):
        calls.append((list(map(tuple, prompts)), list(adapter), speculate))
        places.update({name: a.lora.buffers[0].data_ptr() for name, a in model.adapters().items() if "#" in name})
        return generate(prompts, adapter=adapter, speculate=speculate, **settings)

    monkeypatch.setattr(model, "generate", record)
    monkeypatch.setattr("ssft.bench.adapters_batches.SIZES", ())
    rows = {name: filled(prompts) for name, prompts in shelf.prompts.items()}
    measure_batches(model, shelf.paths, rows, replace(result, comparisons=[], differences={}), progress=False)
    assert all(len(prompts) in (1, ROWS) for prompts, _, _ in calls)
    four = [f"deep#{number}" for number in range(4)]
    assert len(set(places.values())) == len(places) == 4
    copies = [call for call in calls if set(call[1]) == set(four)]
    assert [names for _, names, _ in copies] == [four * 2] * 2
    assert {tuple(prompts) for prompts, _, _ in copies} == {tuple(map(tuple, rows["deep"]))}
    streaming = [(prompts, names) for prompts, names, speculate in calls if speculate]
    apart = [(p, n) for p, n in streaming if set(n) == {"projected"}]
    mixed = [(p, n) for p, n in streaming if set(n) == set(NAMES)]
    assert len(apart) == 2  # the warm-up and one round
    assert len(mixed) == 2 * 2 + 2  # the same for two batches, and once more to compare them with rows alone
    wanted = sorted((prompt, name) for name in NAMES for prompt in map(tuple, rows[name]))
    assert sorted(pair for p, n in mixed[:2] for pair in zip(p, n, strict=True)) == wanted
    assert all(n == list(NAMES) * 4 for _, n in mixed)
    alone = [(prompts[0], names[0]) for prompts, names, speculate in calls if not speculate]
    assert sorted(alone) == wanted


@pytest.mark.usefixtures("no_shelf")
def test_rows_that_differ_are_counted_and_named_with_their_own_adapters_margin(model, shelf, monkeypatch):
    """One wrong token in rows of the projected adapter that stand beside others, and one lost at a copy's end."""
    generate = model.generate

    def wrong(prompts, adapter, **settings):
        results = generate(prompts, adapter=adapter, **settings)
        if set(adapter) == set(NAMES):
            ids = results[adapter.index("projected")]["token_ids"]
            ids[2] = (ids[2] + 1) % 97
        if "deep#3" in adapter:
            del results[adapter.index("deep#3")]["token_ids"][-1]
        return results

    monkeypatch.setattr(model, "generate", wrong)
    result = measure(model, shelf)
    assert result.comparisons[0].identical == 7
    assert result.differences["deep"] == []
    found = result.differences["projected"]
    assert [(d.row, d.position) for d in found] == [(0, 2), (4, 2)]
    assert all(d.got == (d.expected + 1) % 97 for d in found)
    prompt = filled(shelf.prompts["projected"])[0]
    with loaded(model, shelf.paths):
        (row,) = generate([prompt], adapter=["projected"], max_new_tokens=TOKENS, return_dict=True)
        with model.applied(adapter="projected"):
            assert found[0].margin == top_margin(model.hooks.backbone, [*prompt, *row["token_ids"][:2]])
    shown = {table.title: table for table in tables(result)}
    batches = shown["Batches, the second way against the first"]
    assert batches.notes == ["mixed tasks: 14 of 16 rows are what the row gives alone, without speculation"]
    assert shown["Differences; near-zero margins are ties that rounding decides"].rows[0][:3] == ["projected", 0, 2]


# --- comparing ---


def outputs(*batches, calls=2):
    """[batch][row] from token ids."""
    return [[{"token_ids": ids, "calls": calls} for ids in batch] for batch in batches]


def test_a_ratio_is_the_second_ways_speed_over_the_firsts():
    text = outputs([[1, 2, 3], [4]], [[5, 6]])
    timed = {"a": Timed([[3.0, 0], [1, 5], [2, 1]], [text] * 3), "b": Timed([[6.0], [6], [12]], [text] * 3)}
    found = compare("a and b", timed)
    assert found.ratio == 0.5  # of 0.5, 1 and 0.25
    assert found.tokens_per_second == {"a": 2.0, "b": 1.0}  # six tokens
    assert found.interval[0] <= 0.5 <= found.interval[1]
    assert (found.rows, found.identical, found.tokens_per_call) == (3, 3, 1)


def test_a_shorter_text_is_not_a_faster_one():
    timed = {"a": Timed([[2.0]], [outputs([[1, 2, 3, 4]])]), "b": Timed([[1.0]], [outputs([[1, 2]])])}
    found = compare("", timed)
    assert (found.ratio, found.interval) == (1, None)  # one round
    assert found.identical == 0


@pytest.mark.parametrize("way", ["a", "b"])
def test_a_row_counts_as_identical_only_if_it_is_in_every_round(way):
    right, wrong = outputs([[1], [2]]), outputs([[1], [3]])
    timed = {name: Timed([[1.0], [1.0]], [right, wrong if name == way else right]) for name in "ab"}
    assert compare("", timed).identical == 1
    assert compare("", timed, same_rows=False).identical is None


# --- whole runs ---


def test_everything_has_its_table(result):
    found = {table.title.split()[0]: table.texts() for table in tables(result)}
    assert list(found) == ["Sizes", "Adapters", "Batches,"]
    assert [row[0] for row in found["Sizes"]] == ["base", *NAMES]
    assert [row[0] for row in found["Adapters"]] == ["0", "2", "6", "0"]
    assert [row[-1] for row in found["Batches,"]] == ["8/8", "–", *["8/8"] * 4]
    assert heading(result).startswith("deep (8 prompts), projected (3 prompts) over base: at most 4 tokens, 1 round, ")


def test_an_interrupt_after_the_shelf_keeps_what_is_there(model, shelf, monkeypatch, capsys):
    def interrupt(model, *_):
        model.load_adapter(shelf.small, "on its way")
        raise KeyboardInterrupt

    monkeypatch.setattr(bench, "measure_batches", interrupt)
    result = measure(model, shelf, loads=2)
    assert (result.interrupted, len(result.shelf), result.comparisons) == (True, 3, [])
    assert "interrupted: the result holds what was measured until then" in capsys.readouterr().err
    monkeypatch.setattr(bench, "measure_shelf", interrupt)
    with pytest.raises(KeyboardInterrupt):
        measure(model, shelf)


def test_prompts_are_repeated_until_they_fill_batches():
    assert filled([[1], [2], [3]]) == [[1], [2], [3]] * 2 + [[1], [2]]
    assert len(filled([[1]] * 8)) == 8
    assert len(filled([[1]] * 9)) == 16


@pytest.mark.parametrize("changes", [{"rounds": 0}, {"loads": 1}])
def test_wrong_settings_are_told(model, shelf, changes):
    ((name, value),) = changes.items()
    with pytest.raises(ConfigError, match=rf"{value} {name}, .* needs an adapter, a round, two loads"):
        measure(model, shelf, **changes)


def test_prompts_must_be_there_for_every_adapter(model, shelf):
    with pytest.raises(ConfigError, match=r"prompts for deep: .* a prompt for every adapter"):
        measure_adapters(model, shelf.paths, {"deep": [[5]]})


def test_a_folder_that_does_not_fit_is_told_before_anything_is_measured(model, shelf, tmp_path, monkeypatch):
    other = save_tiny_base(tmp_path / "other", hidden_size=32)
    wrong = save_adapter(tmp_path / "wrong", other, *SHELF["small"])
    monkeypatch.setattr(bench, "measure_shelf", lambda *_: pytest.fail("measured"))
    paths = {**shelf.paths, "wrong": wrong}
    with pytest.raises(BundleError, match=r"made for base 'other', whose model shape"):
        measure_adapters(model, paths, {name: [[5, 6]] for name in paths})
