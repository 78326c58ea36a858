"""Cases for `parametrize` that hold every pair of values, where the full product would only repeat itself."""

import itertools

import pytest
from conftest import ARCHITECTURES


def covering(full=None, pairs=True, **parameters):
    """A `parametrize` over named lists of values, or {id: value}: every two values of two lists meet in some case.

    full: the value of the first list that meets the whole product of the others; the rest of that list shares a
    covering subset. So one architecture shows all there is, and the others show that none of it depends on them.
    pairs: False is for lists that do not interact: every value occurs in some case, whichever values it meets there.
    """
    lists = [
        list(values.items() if isinstance(values, dict) else ((str(v), v) for v in values))
        for values in parameters.values()
    ]
    cases = []
    if full is not None:
        first = [value for value in lists[0] if value[1] == full]
        assert len(first) == 1, f"full={full!r} is none of the first list's values"
        cases = list(itertools.product(first, *lists[1:]))
        lists[0] = [value for value in lists[0] if value[1] != full]
    rows = (pairwise if pairs else each_once)(*map(len, lists))
    cases += [[values[i] for values, i in zip(lists, row, strict=True)] for row in rows]
    marked = [pytest.param(*(value for _, value in case), id="-".join(label for label, _ in case)) for case in cases]
    return pytest.mark.parametrize(list(parameters), marked)


def over_architectures(pairs=True, **parameters):
    """A `parametrize` in which llama meets every combination of the parameters, the other architectures a covering."""
    return covering(full="llama", pairs=pairs, architecture=ARCHITECTURES, **parameters)


def each_once(*sizes):
    """Rows of indices, one below each of `sizes`, in which every index occurs; as many rows as the largest size."""
    return [tuple(row % size for size in sizes) for row in range(max(sizes))]


def pairwise(*sizes):
    """Rows of indices, one below each of `sizes`, in which all pairs of two columns' indices occur; the same each time.

    Greedy: a row begins with the first pair that is still missing, and every other column takes the index that adds the
    most missing pairs, among equals the one that was taken least.
    """
    if len(sizes) < 2:
        return [(i,) for size in sizes for i in range(size)]
    columns = [[(column, i) for i in range(size)] for column, size in enumerate(sizes)]
    missing = dict.fromkeys(pair for a, b in itertools.combinations(columns, 2) for pair in itertools.product(a, b))
    taken = dict.fromkeys(itertools.chain(*columns), 0)
    rows = []
    while missing:
        row = list(next(iter(missing)))
        for column in columns:
            if column[0][0] not in dict(row):
                row.append(
                    max(column, key=lambda cell: (sum(pair(cell, other) in missing for other in row), -taken[cell]))
                )
        row.sort()
        for cell in row:
            taken[cell] += 1
        for found in itertools.combinations(row, 2):
            missing.pop(found, None)
        rows.append(tuple(i for _, i in row))
    return rows


def pair(*cells):
    """Two cells of a row in the columns' order."""
    return tuple(sorted(cells))
