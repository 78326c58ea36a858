"""The built-in rows: deterministic, disjoint, of the promised form."""

import json

import pytest

from ssft.errors import DataError
from ssft.recipes.quickstart import DELIVERY, quickstart_rows


def test_same_arguments_give_the_same_rows():
    assert quickstart_rows(20, 3) == quickstart_rows(20, 3)
    assert quickstart_rows(20, 3) != quickstart_rows(20, 4)


def test_rows_are_pinned():
    # trained adapters are measured on these rows: a change of the generator is a change of the data
    assert quickstart_rows(1, 0, "validation")[0]["prompt"] == PINNED


PINNED = (
    "Turn the order into JSON and a confirmation.\n\n"
    "Order 495: Grace Gray, Vienna, 2 x green cotton coat, pickup\n\n"
    "Answer:\n"
)


def test_more_rows_extend_fewer():
    assert quickstart_rows(50, 0)[:10] == quickstart_rows(10, 0)


@pytest.mark.parametrize("seeds", [(0, 0), (0, 1)])
def test_no_customer_is_in_both_parts(seeds):
    train, validation = (
        quickstart_rows(300, seed, part) for seed, part in zip(seeds, ("train", "validation"), strict=True)
    )
    assert not customers(train) & customers(validation)


def test_no_row_comes_twice():
    assert len({row["prompt"] for row in quickstart_rows(2000, 0)}) == 2000


def test_completion_follows_from_the_prompt():
    for row in quickstart_rows(50, 0):
        first, second = row["completion"].split("\n")
        order = json.loads(first)
        head = f"Order {order['order']}: {order['customer']}, {order['city']}, {order['quantity']} x {order['item']}"
        assert f"{head}, {order['delivery']}\n" in row["prompt"]
        assert second == f"Thank you, {order['customer']}. {DELIVERY[order['delivery']]}"


def test_bad_arguments():
    with pytest.raises(DataError, match=r"part='test'.*train and validation"):
        quickstart_rows(1, 0, "test")
    with pytest.raises(DataError, match=r"count=0: at least one"):
        quickstart_rows(0, 0)


def customers(rows):
    return {json.loads(row["completion"].split("\n")[0])["customer"] for row in rows}
