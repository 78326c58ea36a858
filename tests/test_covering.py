"""Covering cases: no pair of values is lost, and there are far fewer of them than the product has."""

import itertools
import math

import pytest
from covering import covering, each_once, pairwise


@pytest.mark.parametrize("sizes", [(2, 2), (3, 2, 2), (2, 3, 3, 2, 2), (8, 3, 3, 2, 2), (4, 4, 4), (1, 5, 2)], ids=str)
def test_every_pair_occurs(sizes):
    rows = pairwise(*sizes)
    for a, b in itertools.combinations(range(len(sizes)), 2):
        assert {(row[a], row[b]) for row in rows} == set(itertools.product(range(sizes[a]), range(sizes[b])))
    assert len(set(rows)) == len(rows)
    least = math.prod(sorted(sizes)[-2:])
    assert least <= len(rows) <= 1.5 * least
    assert rows == pairwise(*sizes)


def test_one_list_is_covered_by_all_of_its_values():
    assert pairwise(3) == [(0,), (1,), (2,)]


def test_every_value_occurs_where_no_pairs_are_asked():
    rows = each_once(2, 5, 3)
    assert len(rows) == 5
    assert [set(column) for column in zip(*rows, strict=True)] == [{0, 1}, {0, 1, 2, 3, 4}, {0, 1, 2}]
    lists = {"architecture": ["llama", "mistral", "opt"], "a": [1, 2, 3]}
    _, values, _ = cases(covering(full="llama", pairs=False, **lists))
    assert values == [("llama", 1), ("llama", 2), ("llama", 3), ("mistral", 1), ("opt", 2), ("mistral", 3)]


def cases(mark):
    """(names, [values], [ids]) of a `parametrize`."""
    names, marked = mark.args
    return names, [case.values for case in marked], [case.id for case in marked]


def test_a_covering_names_its_values():
    names, values, ids = cases(covering(kind=["k_ary", "chain"], rows={"one": [0], "all": [0, 1]}))
    assert names == ["kind", "rows"]
    assert values == [("k_ary", [0]), ("k_ary", [0, 1]), ("chain", [0]), ("chain", [0, 1])]
    assert ids == ["k_ary-one", "k_ary-all", "chain-one", "chain-all"]


def test_the_full_value_meets_the_whole_product_and_the_others_every_pair():
    lists = {"architecture": ["llama", "mistral", "opt"], "a": [1, 2, 3], "b": [1, 2, 3], "c": [1, 2]}
    _, values, _ = cases(covering(full="llama", **lists))
    assert {case[1:] for case in values if case[0] == "llama"} == set(itertools.product(*list(lists.values())[1:]))
    others = [case for case in values if case[0] != "llama"]
    for a, b in itertools.combinations(range(4), 2):
        possible = itertools.product(*([v for v in list(lists.values())[i] if v != "llama"] for i in (a, b)))
        assert {(case[a], case[b]) for case in others} == set(possible)
    assert len(others) < 18
    assert len(set(values)) == len(values)


def test_a_full_value_that_is_in_no_list_is_a_mistake():
    with pytest.raises(AssertionError, match="full='gpt2' is none of the first list's values"):
        covering(full="gpt2", architecture=["llama", "opt"], a=[1, 2])
