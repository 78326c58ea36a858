"""Which token ids a draft vocabulary has."""

from types import SimpleNamespace

import pytest
from tiny_base import tiny_tokenizer

from ssft.training.loss import IGNORE
from ssft.training.vocabulary import learn_vocabulary, special_tokens, vocabulary_of_run

ROWS = [([5, 5, 5, 6, 30], [10, 11, 10]), ([5, 7, 7], [11, 10, 12])]


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        (2, [10, 11]),  # completions by frequency
        (3, [10, 11, 12]),  # a rare token of a completion before a common one of a prompt
        (4, [5, 10, 11, 12]),  # then prompts by frequency
        (5, [5, 7, 10, 11, 12]),
        (6, [5, 6, 7, 10, 11, 12]),  # equal ones by their id
        (40, [5, 6, 7, 10, 11, 12, 30]),  # what no row uses never comes in
    ],
)
def test_the_tokens_that_rows_use_most(size, expected):
    assert learn_vocabulary(ROWS, [], size, 40).tolist() == expected


def test_special_tokens_are_always_in():
    assert learn_vocabulary(ROWS, [0, 39], 3, 40).tolist() == [0, 10, 39]
    assert learn_vocabulary(ROWS, [0, 1, 2], 2, 40).tolist() == [0, 1, 2]
    assert learn_vocabulary(ROWS, [10, 99], 2, 40).tolist() == [10, 11], "the base has no token 99"


def test_the_end_of_the_text_is_a_special_token():
    model = SimpleNamespace(generation_config=SimpleNamespace(eos_token_id=[7, 9]))
    assert special_tokens(model, tiny_tokenizer()) == {0, 1, 7, 9}


def run(size):
    """A trainer with two rows as TRL tokenises them."""
    base = SimpleNamespace(config=SimpleNamespace(vocab_size=40), generation_config=None)
    examples = [{"input_ids": p + c, "labels": [IGNORE] * len(p) + c} for p, c in ROWS]
    backbone = SimpleNamespace(backbone=SimpleNamespace(model=base))
    return vocabulary_of_run(
        SimpleNamespace(
            args=SimpleNamespace(draft_vocabulary=size),
            hooks=backbone,
            train_dataset=examples,
            processing_class=tiny_tokenizer(),
        )
    )


def test_a_run_learns_from_its_rows():
    assert run(5).tolist() == [0, 1, 10, 11, 12]


@pytest.mark.parametrize("size", [0, 40, 4096])
def test_nothing_is_learned_for_the_whole_vocabulary(size):
    assert run(size) is None
