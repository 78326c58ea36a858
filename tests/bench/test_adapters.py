"""`ssft bench adapters`, section by section, on a tiny base."""

import gc
import random
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file
from shelf import SHELF, save_adapter
from tiny_base import save_tiny_base

from ssft.bench import adapters as bench
from ssft.bench import adapters_shelf
from ssft.bench.adapters import measure_adapters
from ssft.bench.adapters_batches import ROWS, BatchRunner, compare, filled, loaded, measure_mixed
from ssft.bench.report.adapters import heading, tables
from ssft.bench.result import PASSES
from ssft.bench.rounds import Timed
from ssft.errors import BundleError, ConfigError
from ssft.runtime.model import MultiAdapterModel

TOKENS = 4
NAMES = ("deep", "projected")
SMALL = {"max_new_tokens": TOKENS, "rounds": 1, "loads": 6, "account_rounds": 12, "progress": False}


@pytest.fixture(scope="module", autouse=True)
def few_objects():
    """The collector looks at what comes from here on: half a million objects of libraries would cost seconds."""
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture(scope="module")
def shelf(few_objects, tmp_path_factory):
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
    return measure_adapters(module_model, shelf.paths, shelf.prompts, precision="float32", **SMALL)


def measure(model, shelf, *skip, **changes):
    settings = {"precision": "float32", **SMALL, "skip": skip, **changes}
    return measure_adapters(model, shelf.paths, shelf.prompts, **settings)


# --- what is measured ---


def test_what_it_depends_on_is_in_the_result(result, model):
    assert result.base == "base"
    assert (result.precision, result.max_new_tokens, result.rounds, result.seed) == ("float32", TOKENS, 1, 0)
    assert result.device.startswith("cpu: ")
    assert result.adapters["deep"]["r"] == 4
    assert result.adapters["deep"]["streams"]["num_streams"] == 3
    assert result.adapters["projected"]["tree"]["max_nodes"] == 31
    assert [facts["prompts"] for facts in result.adapters.values()] == [8, 3]
    assert not result.interrupted
    assert model.active_adapter is None


def test_switching_and_loading(result):
    assert [time.loaded for time in result.switch] == [2, 6]
    assert all(0 < time.microseconds < 1e3 * time.first_token_ms for time in result.switch)
    assert result.load.loads == 6
    assert 0 < min(result.load.early_ms, result.load.late_ms) <= result.load.median_ms * 2


def test_switching_is_timed_with_two_before_and_after_and_with_all(model, shelf, monkeypatch):
    loaded = []
    switch_time = adapters_shelf._switch_time

    def count(model, names, prompt):
        loaded.append((len(model.adapters()), names))
        return switch_time(model, names, prompt)

    monkeypatch.setattr(adapters_shelf, "_switch_time", count)
    measure(model, shelf, "account", "mixed", "batches", loads=5)
    pair = ("deep#0", "projected#1")
    assert loaded == [(2, pair), (5, ("deep#0", "deep#4")), (2, pair)]


def test_every_timed_call_is_a_switch(model, shelf, monkeypatch):
    done = []
    set_adapter = model.set_adapter
    monkeypatch.setattr(model, "set_adapter", lambda name: done.append(name) or set_adapter(name))
    with loaded(model, shelf.paths):
        adapters_shelf._switch_time(model, NAMES, [5, 6])
    assert len(done) == adapters_shelf.BLOCKS * adapters_shelf.SWITCHES + 1 + adapters_shelf.FIRST_TOKENS + 1
    assert done.pop() is None
    warm_up = adapters_shelf.BLOCKS * adapters_shelf.SWITCHES
    repeated = [at for at in range(1, len(done)) if done[at] == done[at - 1]]
    assert repeated == [warm_up]


def test_every_load_has_tensors_of_its_own(model, shelf, monkeypatch):
    places = set()
    switch_time = adapters_shelf._switch_time

    def look(model, names, prompt):
        places.update(adapter.lora.buffers[0].data_ptr() for adapter in model.adapters().values())
        return switch_time(model, names, prompt)

    monkeypatch.setattr(adapters_shelf, "_switch_time", look)
    measure(model, shelf, "account", "mixed", "batches", loads=7)
    assert len(places) >= 7


def test_load_times_are_those_of_the_2nd_to_6th_and_of_the_last_five(model, shelf, monkeypatch):
    clock = {"now": 0.0, "loads": 0}
    load_adapter = model.load_adapter

    def load(path, name):
        if not name.endswith("#passing"):
            clock["loads"] += 1
            clock["now"] += clock["loads"]
        return load_adapter(path, name)

    monkeypatch.setattr(adapters_shelf.time, "perf_counter", lambda: clock["now"])
    monkeypatch.setattr(model, "load_adapter", load)
    _, times, _ = adapters_shelf.measure_shelf(model, shelf.paths, [5, 6, 7], 9, progress=False)
    assert (times.early_ms, times.late_ms, times.median_ms) == (4000, 7000, 5000)


def test_memory_is_that_of_the_tensors_and_of_the_files(result, shelf, model):
    memory = result.memory
    assert memory.base == sum(p.nbytes for p in [*model.model.parameters(), *model.model.buffers()])
    for name, path in shelf.paths.items():
        files = [path / "adapter_model.safetensors", path / "streams.safetensors"]
        tensors = [tensor for file in files for tensor in load_file(file).values()]
        assert memory.adapters[name].bytes == sum(tensor.nbytes for tensor in tensors)
        assert memory.adapters[name].file_bytes == sum(file.stat().st_size for file in files)
        assert memory.adapters[name].ratio == memory.adapters[name].bytes / memory.adapters[name].file_bytes
    growth = memory.growth
    assert growth.loads == 6
    assert growth.file_bytes == 3 * sum(adapter.file_bytes for adapter in memory.adapters.values())
    assert growth.process_ratio == growth.process_bytes / growth.file_bytes
    assert growth.allocated_bytes is None


def test_growth_is_between_the_first_and_the_last_load(model, shelf, monkeypatch):
    loaded = []

    def resident():
        loaded.append(len(model.adapters()))
        return 1000 + 500 * len(model.adapters())

    monkeypatch.setattr(adapters_shelf, "process_bytes", resident)
    _, _, growth = adapters_shelf.measure_shelf(model, shelf.paths, [5, 6], 4, progress=False)
    assert loaded == [0, 4]
    assert growth.process_bytes == 2000


def test_the_account_has_three_points_and_no_tensor_stays(result):
    account = result.account
    assert account.rounds == 12
    assert [point.round for point in (account.warm, account.middle, account.end)] == [1, 6, 12]
    assert account.tensor_growth == 0
    assert account.warm.tensors == account.middle.tensors == account.end.tensors > 0
    assert account.process_growth == account.end.process_bytes - account.warm.process_bytes
    assert account.process_growth_per_round == account.process_growth / 11


def test_what_a_deleted_adapter_leaves_behind_is_in_the_account(model, shelf, monkeypatch):
    kept = []
    delete_adapter = model.delete_adapter

    def leak(name):
        kept.append(torch.zeros(1))
        delete_adapter(name)

    monkeypatch.setattr(model, "delete_adapter", leak)
    prompts = {name: rows[0] for name, rows in shelf.prompts.items()}
    account = adapters_shelf.measure_account(model, shelf.paths, prompts, 21, progress=False)
    assert (account.warm.round, account.middle.round) == (1, 11)
    assert account.tensor_growth == 21 - 1


def test_mixed_batches_and_batches_of_one_adapter(result):
    mixed = result.mixed
    assert (mixed.rows, mixed.identical, mixed.differences) == (16, 16, [])
    assert (mixed.routing.rows, mixed.routing.identical, mixed.routing.unit) == (8, 8, "tokens/s")
    assert list(mixed.routing.values) == ["one adapter", "four copies"]
    assert (mixed.low_rank.unit, mixed.low_rank.identical) == (PASSES, None)
    assert list(mixed.low_rank.values) == ["bare base", "one adapter"]
    assert (mixed.tasks.rows, mixed.tasks.identical) == (16, None)
    assert [batch.batch_size for batch in result.batches] == [1, 2, 4, 8]
    for batch in result.batches:
        assert batch.comparison.identical == batch.comparison.rows == 8
        assert list(batch.comparison.values) == ["plain", "streaming"]
        assert 1 <= batch.tokens_per_call == result.batches[0].tokens_per_call
    assert all(c.ratio > 0 for c in (mixed.routing, mixed.low_rank, mixed.tasks))


def test_a_single_adapter_has_no_tasks_to_mix(model, shelf):
    paths = {"deep": shelf.paths["deep"]}
    runner = BatchRunner(model, 2, 1, progress=False)
    mixed = measure_mixed(runner, paths, {"deep": shelf.prompts["deep"]})
    assert mixed.tasks is None
    assert (mixed.rows, mixed.identical) == (8, 8)


def test_both_ways_have_the_same_rows(model, shelf, monkeypatch):
    """Rows of one adapter per batch, then the same rows mixed; copies with tensors of their own."""
    calls, places = [], {}
    generate = model.generate

    def record(prompts, adapter, **settings):
        calls.append((list(map(tuple, prompts)), list(adapter), settings))
        places.update({name: a.lora.buffers[0].data_ptr() for name, a in model.adapters().items() if "#" in name})
        return generate(prompts, adapter=adapter, **settings)

    monkeypatch.setattr(model, "generate", record)
    rows = {name: filled(prompts) for name, prompts in shelf.prompts.items()}
    runner = BatchRunner(model, 2, 1, progress=False)
    measure_mixed(runner, shelf.paths, rows)
    assert all(len(prompts) in (1, ROWS) for prompts, _, _ in calls)
    four = [f"deep#{number}" for number in range(4)]
    assert len(set(places.values())) == len(places) == 4
    routing = [call for call in calls if set(call[1]) == set(four)]
    assert [names for _, names, _ in routing] == [four * 2] * 2
    assert {tuple(prompts) for prompts, _, _ in routing} == {tuple(map(tuple, rows["deep"]))}
    bare = [settings for _, names, settings in calls if set(names) == {None}]
    assert len(bare) == 2
    assert all(settings["ignore_eos"] and not settings["speculate"] for settings in bare)
    streaming = [(prompts, names) for prompts, names, settings in calls if "speculate" not in settings]
    apart = [(p, n) for p, n in streaming if set(n) == {"projected"}]
    mixed = [(p, n) for p, n in streaming if set(n) == set(NAMES)]
    assert len(apart) == 2  # the warm-up and one round
    assert len(mixed) == 2 * 2 + 2  # the same for two batches, and once more to compare them with rows alone
    wanted = sorted((prompt, name) for name in NAMES for prompt in map(tuple, rows[name]))
    assert sorted(pair for p, n in mixed[:2] for pair in zip(p, n, strict=True)) == wanted
    assert all(n == list(NAMES) * 4 for _, n in mixed)
    alone = [(prompts[0], names[0]) for prompts, names, _ in calls if len(prompts) == 1]
    assert sorted(alone) == wanted


# --- a difference is told ---


@pytest.fixture
def planted(model, monkeypatch):
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


@pytest.mark.usefixtures("planted")
def test_rows_that_differ_are_counted_and_named(model, shelf):
    result = measure(model, shelf, "load", "account", "batches")
    assert result.mixed.routing.identical == 7
    assert (result.mixed.identical, result.mixed.rows) == (14, 16)
    found = [(d.adapter, d.row, d.position) for d in result.mixed.differences]
    assert found == [("projected", 0, 2), ("projected", 4, 2)]
    for difference in result.mixed.differences:
        assert difference.got == (difference.expected + 1) % 97
        assert difference.margin > 0
    shown = {table.title: table.rows for table in tables(result)}
    assert "Mixed batches: 14 of 16 rows are what the row gives alone, without speculation" in shown
    assert shown["Differences; near-zero margins are ties that rounding decides"][0][:3] == ["projected", 0, 2]


def test_a_margin_is_that_of_the_rows_own_adapter(model, shelf):
    runner = BatchRunner(model, 1, 1, progress=False)
    ids = shelf.prompts["deep"][0]
    with loaded(model, shelf.paths):
        margins = {name: runner.margin(name, ids) for name in [*NAMES, None]}
    with torch.inference_mode():
        best = model.model(torch.tensor([ids])).logits[0, -1].topk(2).values
    assert margins[None] == pytest.approx(float(best[0] - best[1]), abs=1e-4)
    assert len({round(margin, 4) for margin in margins.values()}) == 3


# --- comparing ---


def outputs(*batches, calls=2):
    """[batch][row] from token ids."""
    return [[{"token_ids": ids, "calls": calls} for ids in batch] for batch in batches]


def test_a_ratio_is_the_second_ways_speed_over_the_firsts():
    text = outputs([[1, 2, 3], [4]], [[5, 6]])
    timed = {"a": Timed([[3.0, 0], [1, 5], [2, 1]], [text] * 3), "b": Timed([[6.0], [6], [12]], [text] * 3)}
    found = compare(timed)
    assert found.ratio == 0.5  # of 0.5, 1 and 0.25
    assert found.values == {"a": 2.0, "b": 1.0}  # six tokens
    assert found.interval[0] <= 0.5 <= found.interval[1]
    assert found.spread > 0
    assert (found.rows, found.identical, found.unit) == (3, 3, "tokens/s")
    found = compare(timed, PASSES)
    assert found.values == {"a": 0.75, "b": 1.5}  # two batches of two passes
    assert found.ratio == 0.5


def test_a_shorter_text_is_not_a_faster_one():
    timed = {"a": Timed([[2.0]], [outputs([[1, 2, 3, 4]])]), "b": Timed([[1.0]], [outputs([[1, 2]])])}
    found = compare(timed)
    assert (found.ratio, found.interval) == (1, None)  # one round
    assert found.identical == 0


@pytest.mark.parametrize("way", ["a", "b"])
def test_a_row_counts_as_identical_only_if_it_is_in_every_round(way):
    right, wrong = outputs([[1], [2]]), outputs([[1], [3]])
    timed = {name: Timed([[1.0], [1.0]], [right, wrong if name == way else right]) for name in "ab"}
    assert compare(timed).identical == 1
    assert compare(timed, same_rows=False).identical is None


# --- whole runs ---


def test_sections_can_be_left_out(model, shelf):
    result = measure(model, shelf, *bench.SECTIONS)
    assert [result.switch, result.load, result.account, result.mixed, result.batches] == [None] * 5
    assert result.memory.growth is None
    assert [table.title for table in tables(result)] == ["Memory"]


def test_every_section_has_its_table(result):
    found = {table.title.split()[0]: table.texts() for table in tables(result)}
    assert list(found) == ["Switching", "Loading", "Memory", "Account", "Mixed", "Batches"]
    assert [row[0] for row in found["Memory"]] == ["base", *NAMES, "process, by 6 adapters", "allocated, by 6 adapters"]
    assert [row[0] for row in found["Account"]] == ["1", "6", "12", "growth", "growth per round"]
    assert [row[-1] for row in found["Mixed"]] == ["8", "–", "–"]
    assert [row[-1] for row in found["Batches"]] == ["8"] * 4
    assert heading(result).startswith("deep (8 prompts), projected (3 prompts) over base: at most 4 tokens, 1 rounds")


def test_an_interrupt_after_a_section_keeps_it(model, shelf, monkeypatch, capsys):
    def interrupt(model, *_):
        model.load_adapter(shelf.small, "on its way")
        raise KeyboardInterrupt

    monkeypatch.setattr(bench, "measure_account", interrupt)
    result = measure(model, shelf, loads=2)
    assert result.interrupted
    assert result.load.loads == 2
    assert [result.account, result.mixed, result.batches] == [None] * 3
    assert "interrupted: the result covers load" in capsys.readouterr().err
    with pytest.raises(KeyboardInterrupt):
        measure(model, shelf, "load")


def test_prompts_are_repeated_until_they_fill_batches():
    assert filled([[1], [2], [3]]) == [[1], [2], [3]] * 2 + [[1], [2]]
    assert len(filled([[1]] * 8)) == 8
    assert len(filled([[1]] * 9)) == 16


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"skip": ("mix",)}, "mix: no section; there are load, account, mixed, batches"),
        ({"rounds": 0}, "0 rounds.*needs an adapter, a round"),
        ({"loads": 1}, "1 adapters: a switch needs two; raise --adapters"),
        ({"account_rounds": 2, "skip": ("load",)}, "2 rounds: the account compares three points"),
    ],
)
def test_wrong_settings_are_told(model, shelf, changes, message):
    with pytest.raises(ConfigError, match=message):
        measure(model, shelf, **changes)


def test_prompts_must_be_there_for_every_adapter(model, shelf):
    with pytest.raises(ConfigError, match=r"prompts for deep: .* a prompt for every adapter"):
        measure_adapters(model, shelf.paths, {"deep": [[5]]}, precision="float32")


def test_a_folder_that_does_not_fit_is_told_before_anything_is_measured(model, shelf, tmp_path, monkeypatch):
    other = save_tiny_base(tmp_path / "other", hidden_size=32)
    wrong = save_adapter(tmp_path / "wrong", other, *SHELF["small"])
    monkeypatch.setattr(bench, "measure_shelf", lambda *_: pytest.fail("measured"))
    paths = {**shelf.paths, "wrong": wrong}
    prompts = {name: [[5, 6]] for name in paths}
    with pytest.raises(BundleError, match=r"made for base 'other', whose model shape"):
        measure_adapters(model, paths, prompts, precision="float32")
