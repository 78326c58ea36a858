"""The comparison of outputs finds what was planted, and margins are the plain model's."""

import pytest
import torch
from fake_adapted import random_prompts

from ssft.bench.identity import add_margins, compare_outputs, top_margin
from ssft.bench.methods import Setting, method_module
from ssft.results.schema import Difference


def differences_with_margins(adapted, prompts, expected, got):
    differences = compare_outputs(expected, got)
    add_margins(adapted, prompts, expected, differences)
    return differences


def margin(adapted, ids):
    with adapted.applied():
        return top_margin(adapted.hooks.backbone, ids)


@pytest.fixture(scope="module")
def prompts():
    return random_prompts(3)


@pytest.fixture(scope="module")
def outputs(adapted, prompts):
    return [result.token_ids for result in method_module("plain").Method(Setting(adapted, 10, 1)).run(prompts)]


@pytest.mark.parametrize(
    ("expected", "got", "place"),
    [
        ([1, 2, 3], [1, 2, 3], None),
        ([], [], None),
        ([1, 2, 3], [1, 9, 3], 1),
        ([1, 2, 3], [9, 2, 3], 0),
        ([1, 2, 3], [1, 2, 9], 2),
        ([1, 2, 3], [1, 2], 2),
        ([1, 2], [1, 2, 3], 2),
        ([1], [], 0),
    ],
)
def test_the_first_difference_of_two_outputs(expected, got, place):
    tokens = [ids[place] if place is not None and place < len(ids) else None for ids in (expected, got)]
    wanted = [] if place is None else [Difference(1, place, *tokens)]
    assert compare_outputs([[7], expected], [[7], got]) == wanted


def test_equal_outputs_have_no_differences(adapted, prompts, outputs):
    assert differences_with_margins(adapted, prompts, outputs, [list(row) for row in outputs]) == []


@pytest.mark.parametrize("place", [0, 4, 9])
def test_one_planted_token_is_found(adapted, prompts, outputs, place):
    planted = [list(row) for row in outputs]
    planted[1][place] = (planted[1][place] + 1) % 61
    (difference,) = differences_with_margins(adapted, prompts, outputs, planted)
    assert (difference.row, difference.position) == (1, place)
    assert (difference.expected, difference.got) == (outputs[1][place], planted[1][place])
    assert difference.margin == margin(adapted, [*prompts[1], *outputs[1][:place]])


def test_a_truncated_output_is_found(adapted, prompts, outputs):
    (difference,) = differences_with_margins(adapted, prompts, outputs, [*outputs[:2], outputs[2][:-1]])
    assert (difference.row, difference.position, difference.got) == (2, 9, None)
    assert difference.expected == outputs[2][9]
    assert difference.margin > 0


def test_an_output_that_runs_on_is_found_and_has_no_margin(adapted, prompts, outputs):
    (difference,) = differences_with_margins(adapted, prompts, outputs, [[*outputs[0], 5], *outputs[1:]])
    assert (difference.position, difference.expected, difference.got, difference.margin) == (10, None, 5, None)


def test_the_margin_is_that_of_the_whole_model(adapted, prompts, outputs):
    ids = [*prompts[0], *outputs[0][:4]]
    with torch.no_grad():
        logits = adapted.model(input_ids=torch.tensor([ids])).logits[0, -1]
    best = logits.topk(2)
    assert int(best.indices[0]) == outputs[0][4]
    assert margin(adapted, ids) == pytest.approx(float(best.values[0] - best.values[1]), abs=1e-5)
