"""What a pass costs: tables between their points, and what is measured, kept and measured again."""

import json
import logging
import random

import numpy as np
import pytest
from conftest import TINY, random_ids, with_adapter
from decoder import Decoder

from ssft.base.embedded import cache_dir
from ssft.decoding.budget import cost
from ssft.decoding.budget.cost import NODES, SOURCES, CostTable, PassCosts
from ssft.decoding.config import TreeConfig
from ssft.decoding.row import Row
from ssft.decoding.tree import DraftTree
from ssft.streams.config import StreamConfig
from ssft.streams.insertion import StreamHooks
from ssft.streams.modules import streams_of

TREE = TreeConfig("best_first", 16, 12, budget="auto")
PROMPT = random_ids(1, 9)[0].tolist()

# --- tables ---


def random_table(seed):
    draw = random.Random(seed)
    return CostTable(list(NODES), list(SOURCES), [[draw.uniform(1, 9) for _ in SOURCES] for _ in NODES])


@pytest.mark.parametrize("seed", range(5))
def test_more_nodes_or_streams_never_cost_less(seed):
    table = random_table(seed).table(40, 12)
    assert table.shape == (40, 13)
    assert (np.diff(table, axis=0) >= 0).all()
    assert (np.diff(table, axis=1) >= 0).all()
    assert (table > 0).all()


def test_a_table_goes_through_its_points_and_straight_between_and_beyond_them():
    measured = [[10.0 + 3 * n + 2 * m for m in SOURCES] for n in NODES]
    table = CostTable(list(NODES), list(SOURCES), measured).table(20, 9)
    expected = [[10 + 3 * n + 2 * m for m in range(10)] for n in range(1, 21)]
    assert np.allclose(table, expected)


def test_a_point_that_was_disturbed_costs_no_more_than_a_larger_pass():
    measured = [[10.0 + 3 * n + 2 * m for m in SOURCES] for n in NODES]
    measured[1][1] = 500.0
    table = CostTable(list(NODES), list(SOURCES), measured).table(2, 1)
    assert table[1, 1] == min(10 + 3 * 4 + 2 * 1, 10 + 3 * 2 + 2 * 2)


def test_passes_without_streams_have_one_column():
    table = CostTable([1, 2], [0], [[1.0], [2.0]]).table(3, 0)
    assert table.tolist() == [[1.0], [2.0], [3.0]]


def test_what_is_dropped_spares_the_layers_above():
    """c = 10 + 2 n + 3 m, a quarter of the layers above, half of the nodes left: n costs 2 - 0.25, m the half."""
    nodes, sources = [1, 2, 4, 8], [0, 1, 2, 4]
    milliseconds = [[10.0 + 2 * n + 3 * m for m in sources] for n in nodes]
    costs = CostTable(nodes, sources, milliseconds, upper=0.25)
    whole, pruned = costs.table(8, 4), costs.table(8, 4, left=0.5)
    assert np.array_equal(pruned[:, 0], whole[:, 0]), "a pass without streams drops nothing"
    for n in range(2, 9):
        for m in (2, 4):
            assert pruned[n - 1, m] == pytest.approx(10 + 2 * n - 0.25 * 2 * n / 2 + 3 * m / 2)
    assert pruned[0, 1] == pytest.approx(whole[0, 1]), "the root always goes on, and its streams"
    assert np.array_equal(costs.table(8, 4, left=1.0), whole)


# --- measured and kept ---


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SSFT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def count(monkeypatch):
    """Tables that were measured."""
    real, sizes = PassCosts._measure, []

    def measure(self, request, size):
        sizes.append(size)
        return real(self, request, size)

    monkeypatch.setattr(PassCosts, "_measure", measure)
    return sizes


def decoder(streams=3, architecture="llama", **changes):
    model = with_adapter(TINY[architecture](**changes), StreamConfig(streams, 2))
    return Decoder(StreamHooks(model), streams_of(model), TREE)


def rows(of, number=1):
    return [Row(of.request(PROMPT, 9), 9, DraftTree([5])) for _ in range(number)]


def test_passes_are_measured_with_the_real_step(architecture):
    of = decoder(architecture=architecture)
    before = of.generate([PROMPT], 12)[0]
    table = PassCosts(of.step).of(rows(of))
    assert (table.nodes, table.sources) == (list(NODES), list(SOURCES))
    assert np.shape(table.milliseconds) == (len(NODES), len(SOURCES))
    assert (np.array(table.milliseconds) > 0).all()
    again = of.generate([PROMPT], 12)[0]
    assert again.token_ids == before.token_ids


def test_every_power_of_two_rows_is_measured_once(count):
    of = decoder()
    costs = PassCosts(of.step)
    for number in (1, 1, 2, 3, 4, 3):
        costs.of(rows(of, number))
    assert count == [1, 2, 4]
    for number in (1, 2, 4):
        PassCosts(of.step).of(rows(of, number))
    assert count == [1, 2, 4]
    anew = costs.for_request(of.request(PROMPT, 9), 4, again=True)
    assert count == [1, 2, 4, 4]
    assert costs.of(rows(of, 4)) is anew
    assert PassCosts(of.step).of(rows(of, 4)) == anew
    assert len(list((cache_dir() / "costs").glob("*.json"))) == 3


def test_rows_without_streams_are_measured_without(count):
    of = decoder()
    plain = Decoder(of.hooks, None, TREE)
    assert PassCosts(of.step).of(rows(plain)).sources == [0]


def test_a_mixed_batch_costs_what_the_adapter_with_most_streams_does(monkeypatch):
    few, asked = decoder(2), []
    many = Decoder(few.hooks, decoder(4).streams, TREE)
    monkeypatch.setattr(PassCosts, "_measure", lambda self, request, size: asked.append(request))
    for together in (rows(few) + rows(many), rows(many) + rows(few)):
        PassCosts(few.step).of(together)
    assert [request.stream_depth for request in asked] == [4, 4]


CHANGES = {
    "versions": lambda patch: patch.setattr(cost, "versions", lambda: {"ssft": "other"}),
    "device": lambda patch: patch.setattr(cost, "describe_device", lambda device: "cuda: other"),
    "points": lambda patch: patch.setattr(cost, "NODES", (1, 4)),
}


@pytest.mark.parametrize("change", [*CHANGES, "base", "streams", "precision", None])
def test_another_machine_model_or_version_is_measured_again(monkeypatch, count, change):
    of = decoder()
    PassCosts(of.step).of(rows(of))
    if change in CHANGES:
        CHANGES[change](monkeypatch)
    elif change == "base":
        of = decoder(intermediate_size=80)
    elif change == "streams":
        of = decoder(2)
    elif change == "precision":
        of.hooks.backbone.model.bfloat16()
    PassCosts(of.step).of(rows(of))
    assert len(count) == 1 + (change is not None)


@pytest.mark.parametrize(
    "content", ["", "{", "[]", '{"table": 3}', '{"table": {"nodes": [1], "sources": [0], "milliseconds": [["a"]]}}']
)
def test_a_damaged_file_is_told_and_measured_again(count, caplog, content):
    of = decoder()
    PassCosts(of.step).of(rows(of))
    (kept,) = (cache_dir() / "costs").glob("*.json")
    whole = kept.read_text()
    kept.write_text(content)
    with caplog.at_level(logging.WARNING):
        PassCosts(of.step).of(rows(of))
    assert "cannot be read, so the cost of a pass is measured again" in caplog.text
    assert len(count) == 2
    assert json.loads(kept.read_text())["key"] == json.loads(whole)["key"]


@pytest.mark.parametrize("wrong", [{"milliseconds": [[1.0]]}, {"milliseconds": [[0.0] * len(SOURCES)] * len(NODES)}])
def test_a_table_of_another_shape_is_measured_again(count, wrong):
    of = decoder()
    PassCosts(of.step).of(rows(of))
    (kept,) = (cache_dir() / "costs").glob("*.json")
    held = json.loads(kept.read_text())
    held["table"].update(wrong)
    kept.write_text(json.dumps(held))
    PassCosts(of.step).of(rows(of))
    assert len(count) == 2


def test_a_folder_that_cannot_be_written_is_told(caplog, cache):
    cache.write_text("a file where the folder should be")
    of = decoder()
    with caplog.at_level(logging.INFO):
        costs = PassCosts(of.step)
        table = costs.of(rows(of))
    assert "cannot be kept, so the next run measures it again" in caplog.text
    assert costs.of(rows(of)) is table


def test_decoding_measures_at_first_and_says_so_once(caplog, count):
    of = decoder()
    plain = Decoder(of.hooks, None).generate([PROMPT], 20)[0].token_ids
    with caplog.at_level(logging.INFO):
        for _ in range(2):
            assert of.generate([PROMPT], 20)[0].token_ids == plain
    assert caplog.text.count("measuring once what a pass costs: 1 row, float32 on cpu") == 1
    assert count == [1]
