"""Where streams start, what they predict, and how deep a chain of guesses would be accepted: by hand and by loops."""

import pytest
import torch

from ssft.training.loss import IGNORE, chain_acceptance, stream_targets

X = IGNORE


# --- targets ---


def naive_targets(labels, num_streams):
    """[B] lists of (source, targets): written down position by position."""
    found = []
    for row in labels.tolist():
        sources = []
        for t in range(len(row) - 1):
            if row[t + 1] == IGNORE:
                continue
            targets, inside = [], True
            for j in range(num_streams + 1):
                inside = inside and t + 1 + j < len(row) and row[t + 1 + j] != IGNORE
                targets.append(row[t + 1 + j] if inside else IGNORE)
            sources.append((t, targets))
        found.append(sources)
    return found


def assert_targets(labels, num_streams):
    labels = torch.tensor(labels)
    sources, targets = stream_targets(labels, num_streams)
    expected = naive_targets(labels, num_streams)
    size = max(1, *(len(row) for row in expected))
    assert sources.shape == (len(labels), size)
    assert targets.shape == (len(labels), size, num_streams + 1)
    for b, row in enumerate(expected):
        padding = size - len(row)
        assert sources[b].tolist() == [t for t, _ in row] + [0] * padding
        assert targets[b].tolist() == [y for _, y in row] + [[IGNORE] * (num_streams + 1)] * padding


def test_docstring_example():
    sources, targets = stream_targets(torch.tensor([[X, X, 2, 3, 4]]), 2)
    assert sources.tolist() == [[1, 2, 3]]
    assert targets.tolist() == [[[2, 3, 4], [3, 4, X], [4, X, X]]]


@pytest.mark.parametrize("num_streams", [1, 2, 4, 7])
@pytest.mark.parametrize(
    "labels",
    [
        pytest.param([[X, X, 5, 6, 7, 8, X, X]], id="one_completion"),
        pytest.param([[X, 5, 6, X, X, 7, 8, 9]], id="two_turns"),
        pytest.param([[X, 5, X, 6, X, 7]], id="one_token_turns"),
        pytest.param([[X, X, X, 5]], id="last_token_only"),
        pytest.param([[5, 6, 7, 8]], id="no_prompt"),
        pytest.param([[5, X, X, X]], id="first_token_only_has_no_source"),
        pytest.param([[X, X, X, X]], id="nothing_to_learn"),
        pytest.param([[X, X, X, X], [X, 1, 2, X], [X, 3, X, 4]], id="rows_of_unequal_size"),
        pytest.param([[X, X, 3, 4, X, X], [X, X, X, X, X, X], [1, 2, 3, 4, 5, 6]], id="empty_row_between"),
        pytest.param([[0, 0, 0, 0]], id="token_zero_counts"),
        pytest.param([[4]], id="one_column"),
    ],
)
def test_targets_equal_a_double_loop(labels, num_streams):
    assert_targets(labels, num_streams)


@pytest.mark.parametrize("seed", range(20))
def test_targets_of_random_layouts_equal_a_double_loop(seed):
    generator = torch.Generator().manual_seed(seed)
    batch, length, gamma = 1 + seed % 4, 1 + seed * 3 % 23, 1 + seed % 5
    labels = torch.randint(0, 50, (batch, length), generator=generator)
    labels[torch.rand(batch, length, generator=generator) < 0.1 * (seed % 8)] = IGNORE
    assert_targets(labels.tolist(), gamma)


# --- acceptance ---


@pytest.mark.parametrize(
    ("choices", "targets", "accepted", "possible"),
    [
        pytest.param(
            [[1, 2, 3], [2, 3, 4], [3, 4, 5], [4, 5, 6]],
            [[1, 2, 3], [2, 3, 4], [3, 4, X], [4, X, X]],
            [3, 2],
            [3, 2],
            id="always_right",
        ),
        pytest.param(
            [[1, 9, 3], [2, 9, 4], [3, 9, 5], [4, 9, 6]],
            [[1, 2, 3], [2, 3, 4], [3, 4, X], [4, X, X]],
            [0, 0],
            [3, 2],
            id="wrong_first_stream_voids_the_second",
        ),
        pytest.param(
            [[1, 2, 9], [2, 9, 4], [3, 4, 5], [4, 5, 6]],
            [[1, 2, 3], [2, 3, 4], [3, 4, X], [4, X, X]],
            [2, 0],
            [3, 2],
            id="mixed",
        ),
        pytest.param(
            [[1, 7, 8], [7, 8, 0], [8, 0, 0]],
            [[1, 2, 3], [2, 3, X], [3, X, X]],
            [2, 1],
            [2, 1],
            id="counts_against_the_main_stream_not_the_reference",
        ),
        pytest.param([[1, 2, 3]], [[1, X, X]], [0, 0], [0, 0], id="one_source"),
        pytest.param([[1, 2], [2, 0]], [[1, 2], [2, X]], [1], [1], id="one_stream"),
    ],
)
def test_chain_acceptance(choices, targets, accepted, possible):
    found = chain_acceptance(torch.tensor(choices), torch.tensor(targets))
    assert [f.tolist() for f in found] == [accepted, possible]
