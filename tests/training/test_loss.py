"""The n-gram loss against naive double loops: values and gradients."""

from typing import get_args

import pytest
import torch
import torch.nn.functional as F

from ssft.base.head import head_over
from ssft.training import loss as module
from ssft.training.loss import IGNORE, Candidates, Supervision, length_loss, ngram_loss, stream_targets

WIDTH, VOCABULARY = 6, 11
ALL, FEW = list(range(VOCABULARY)), [0, 2, 3, 7, 10]
"""What streams guess from: the whole vocabulary, and a part of it."""


@pytest.fixture
def head():
    torch.manual_seed(3)
    return torch.nn.Linear(WIDTH, VOCABULARY)


def make_inputs(count, gamma, seed=0):
    """Random states that want gradients, and targets of which about a third are ignored."""
    generator = torch.Generator().manual_seed(seed)
    main = torch.randn(count, WIDTH, generator=generator, requires_grad=True)
    streams = torch.randn(count, gamma, WIDTH, generator=generator, requires_grad=True)
    targets = torch.randint(0, VOCABULARY, (count, gamma + 1), generator=generator)
    targets[torch.rand(count, gamma + 1, generator=generator) < 0.3] = IGNORE
    return main, streams, targets


def narrowed(targets, ids):
    """Targets that are among `ids`, and the candidates for `ngram_loss`: none where those are all."""
    if ids is ALL:
        return targets, lambda head: None
    tokens = torch.tensor(ids)
    targets = torch.where(targets == IGNORE, IGNORE, tokens[targets.clamp(min=0) % len(ids)])
    return targets, lambda head: Candidates(tokens, head_over(head, tokens))


def naive_loss(main, streams, targets, head, weights, ids):
    """One target at a time: total, sums, counts."""
    width = targets.shape[1]
    total, sums, counts = torch.zeros(()), [0.0] * width, [0] * width
    for m in range(targets.shape[0]):
        for j in range(width):
            if targets[m, j] == IGNORE:
                continue
            if j == 0:
                value = -F.log_softmax(head(main[m]), dim=-1)[targets[m, 0]]
            else:
                value = -F.log_softmax(head(streams[m, j - 1])[ids], dim=-1)[ids.index(targets[m, j])]
            total = total + weights[j] * value
            sums[j] += value.item()
            counts[j] += 1
    return total, torch.tensor(sums), torch.tensor(counts)


def backward(total, *leaves):
    for leaf in leaves:
        leaf.grad = None
    total.backward()
    return [leaf.grad.clone() for leaf in leaves]


@pytest.mark.parametrize("ids", [ALL, FEW], ids=len)
@pytest.mark.parametrize("rows", [2048, 5, 1], ids=["whole", "chunks", "single_rows"])
@pytest.mark.parametrize("weights", [[1.0, 0.1, 0.1, 0.1], [0.0, 1.0, 0.5, 2.0], [1.0, 0.0, 0.0, 0.0]])
def test_loss_and_gradients_equal_a_naive_sum(head, weights, rows, ids, monkeypatch):
    monkeypatch.setattr(module, "HEAD_ROWS", rows)
    main, streams, targets = make_inputs(9, 3)
    targets, candidates = narrowed(targets, ids)
    weights = torch.tensor(weights)
    leaves = (main, streams, head.weight, head.bias)
    total, sums, counts = naive_loss(main, streams, targets, head, weights, ids)
    expected = backward(total, *leaves)
    result = ngram_loss(main, streams, targets, head, weights, candidates=candidates(head))
    torch.testing.assert_close(result.total, total)
    torch.testing.assert_close(result.sums, sums)
    assert result.counts.tolist() == counts.tolist()
    for found, wanted in zip(backward(result.total, *leaves), expected, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-6)


def test_no_chunk_scores_more_than_its_rows(head, monkeypatch):
    monkeypatch.setattr(module, "HEAD_ROWS", 8)
    main, streams, targets = make_inputs(9, 3)
    sizes = []

    def logits(states):
        sizes.append(len(states))
        return head(states)

    ngram_loss(main, streams, targets, logits, torch.ones(4))
    # Of every chunk the main stream's rows, then those of its streams.
    assert max(main + streams for main, streams in zip(sizes[::2], sizes[1::2], strict=True)) == 8
    assert sum(sizes) == 9 * 4


@pytest.mark.parametrize("ids", [ALL, FEW], ids=len)
def test_choices_are_the_best_tokens_and_carry_no_gradient(head, ids):
    main, streams, targets = make_inputs(4, 2)
    targets, candidates = narrowed(targets, ids)
    result = ngram_loss(main, streams, targets, head, torch.ones(3), candidates=candidates(head))
    assert torch.equal(result.choices[:, 0], head(main).argmax(-1))
    assert torch.equal(result.choices[:, 1:], torch.tensor(ids)[head(streams)[..., ids].argmax(-1)])
    assert not result.choices.requires_grad
    assert not result.sums.requires_grad


@pytest.mark.parametrize("count", [0, 5])
@pytest.mark.parametrize("supervision", get_args(Supervision))
def test_all_ignored_is_a_finite_zero_with_zero_gradients(head, count, supervision):
    main, streams, targets = make_inputs(count, 2)
    result = ngram_loss(main, streams, torch.full_like(targets, IGNORE), head, torch.ones(3), supervision)
    assert result.total.item() == 0.0
    assert result.sums.tolist() == [0.0] * 3
    assert result.counts.tolist() == [0] * 3
    for gradient in backward(result.total, main, streams, head.weight):
        assert torch.equal(gradient, torch.zeros_like(gradient))


def test_half_precision_states_are_scored_in_float32(head):
    main, streams, targets = make_inputs(5, 2)
    half = head.to(torch.bfloat16)
    result = ngram_loss(main.bfloat16(), streams.bfloat16(), targets, half, torch.ones(3))
    assert result.total.dtype == torch.float32
    scores = half(torch.cat((main[:, None], streams), 1).bfloat16()).float()
    expected = F.cross_entropy(scores.flatten(0, 1), targets.flatten(), ignore_index=IGNORE, reduction="sum")
    torch.testing.assert_close(result.total, expected)


# --- streams that learn from the main stream ---


def completions(lengths, gamma, seed=0):
    """Sources of several completions one after the other, as the trainer hands them over."""
    main, streams, targets = make_inputs(sum(lengths), gamma, seed)
    labels = torch.full((len(lengths), max(lengths) + 1), IGNORE)
    for b, n in enumerate(lengths):
        labels[b, 1 : n + 1] = torch.randint(0, VOCABULARY, (n,))
    _sources, targets = stream_targets(labels, gamma)
    return main, streams, targets[targets[..., 0] != IGNORE]


def naive_distillation(main, streams, targets, head, weights, ids):
    """One target at a time: CE(main, y_t), and of stream j at t against what the main stream says of `ids` at t+j."""
    total = torch.zeros(())
    for m in range(targets.shape[0]):
        total = total - weights[0] * F.log_softmax(head(main[m]), dim=-1)[targets[m, 0]]
        for j in range(1, targets.shape[1]):
            if targets[m, j] == IGNORE:
                continue
            p = head(main[m + j]).detach().softmax(dim=-1)[ids]
            total = total - weights[j] * (p * F.log_softmax(head(streams[m, j - 1])[ids], dim=-1)).sum()
    return total


@pytest.mark.parametrize("ids", [ALL, FEW], ids=len)
@pytest.mark.parametrize("rows", [2048, 12, 1], ids=["whole", "chunks", "single_sources"])
@pytest.mark.parametrize("lengths", [[9], [5, 1, 4], [2, 2]], ids=str)
def test_distillation_equals_a_naive_sum(head, lengths, rows, ids, monkeypatch):
    monkeypatch.setattr(module, "HEAD_ROWS", rows)
    main, streams, targets = completions(lengths, 3)
    targets, candidates = narrowed(targets, ids)
    weights, leaves = torch.tensor([1.0, 0.5, 0.25, 2.0]), (main, streams, head.weight, head.bias)
    naive = naive_distillation(main, streams, targets, head, weights, ids)
    expected = backward(naive, *leaves)
    result = ngram_loss(main, streams, targets, head, weights, "main", candidates(head))
    torch.testing.assert_close(result.total, naive)
    assert result.counts.tolist() == (targets != IGNORE).sum(0).tolist()
    reference = ngram_loss(main, streams, targets, head, weights, candidates=candidates(head))
    assert torch.equal(result.choices, reference.choices)
    assert result.sums[0] == pytest.approx(reference.sums[0].item(), rel=1e-5)
    for found, wanted in zip(backward(result.total, *leaves), expected, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-6)


def naive_acceptance(main, streams, head, ids, m, j):
    """α of stream j at source m, token by token of those that it guesses from."""
    p, q = head(main[m + j]).detach().softmax(dim=-1)[ids], head(streams[m, j - 1])[ids].softmax(dim=-1)
    return sum(torch.minimum(a, b) for a, b in zip(p, q, strict=True))


def naive_overlap(main, streams, targets, head, weights, ids, joint):
    """One source at a time: CE(main, y_t) and w_j · -log α_j, or jointly the length of the chain."""
    total = torch.zeros((), dtype=main.dtype)
    for m in range(targets.shape[0]):
        total = total - weights[0] * F.log_softmax(head(main[m]), dim=-1)[targets[m, 0]]
        length, reached, whole = 0, 1, 0
        for j in range(1, targets.shape[1]):
            if targets[m, j] == IGNORE:
                continue
            alpha = naive_acceptance(main, streams, head, ids, m, j)
            reached = reached * alpha
            length, whole = length + weights[j] * reached, whole + weights[j]
            total = total if joint else total - weights[j] * alpha.log()
        if joint:
            total = total - (whole * torch.log(length / whole) if whole else 0 * length)
    return total


@pytest.mark.parametrize("ids", [ALL, FEW], ids=len)
@pytest.mark.parametrize("rows", [2048, 12, 1], ids=["whole", "chunks", "single_sources"])
@pytest.mark.parametrize("lengths", [[9], [5, 1, 4], [2, 2]], ids=str)
@pytest.mark.parametrize("supervision", ["acceptance", "accepted_length"])
@pytest.mark.parametrize("weights", [[1.0, 0.5, 0.25, 2.0], [0.0, 0.1, 0.1, 0.1], [1.0, 0.0, 0.0, 0.0]], ids=str)
def test_overlap_equals_a_naive_sum_in_float64(head, supervision, lengths, rows, weights, ids, monkeypatch):
    monkeypatch.setattr(module, "HEAD_ROWS", rows)
    main, streams, targets = completions(lengths, 3)
    targets, candidates = narrowed(targets, ids)
    main, streams = main.double().detach().requires_grad_(), streams.double().detach().requires_grad_()
    double = torch.nn.Linear(WIDTH, VOCABULARY).double()
    double.load_state_dict(head.state_dict())
    weights = torch.tensor(weights)
    joint = supervision == "accepted_length"
    naive = naive_overlap(main, streams, targets, double, weights.double(), ids, joint)
    expected = backward(naive, main, streams, double.weight)
    leaves = main.detach().float().requires_grad_(), streams.detach().float().requires_grad_(), head.weight
    result = ngram_loss(*leaves[:2], targets, head, weights, supervision, candidates(head))
    torch.testing.assert_close(result.total.double(), naive, rtol=1e-5, atol=1e-6)
    for found, wanted in zip(backward(result.total, *leaves), expected, strict=True):
        torch.testing.assert_close(found.double(), wanted, rtol=1e-4, atol=1e-5)
    for j in range(1, 4):
        known = [m for m in range(len(targets)) if targets[m, j] != IGNORE]
        told = sum(-naive_acceptance(main, streams, double, ids, m, j).log().item() for m in known)
        assert result.sums[j] == pytest.approx(told, rel=1e-4)


@pytest.mark.parametrize("supervision", ["main", "acceptance", "accepted_length"])
def test_learning_from_the_main_stream_pulls_at_the_streams_only(head, supervision):
    main, streams, targets = completions([6], 2)
    result = ngram_loss(main, streams, targets, head, torch.tensor([0.0, 1.0, 1.0]), supervision)
    of_main, of_streams = backward(result.total, main, streams)
    assert torch.equal(of_main, torch.zeros_like(of_main))
    assert of_streams[:4].abs().min() > 0  # all sources but the last two have both targets


@pytest.mark.parametrize("supervision", ["main", "acceptance", "accepted_length"])
def test_a_stream_that_says_what_the_main_stream_says_has_nothing_to_learn(head, supervision):
    main, streams, targets = completions([6], 2)
    ahead = [F.pad(main.detach()[j:], (0, 0, 0, j)) for j in (1, 2)]  # stream j at t = main at t+j
    streams = torch.stack(ahead, dim=1).requires_grad_()
    result = ngram_loss(main, streams, targets, head, torch.tensor([0.0, 1.0, 1.0]), supervision)
    if supervision == "main":  # a cross-entropy keeps the entropy of its target, and is smooth at its lowest
        (gradient,) = backward(result.total, streams)
        torch.testing.assert_close(gradient, torch.zeros_like(gradient), rtol=0, atol=1e-6)
    else:
        assert result.total.item() == pytest.approx(0, abs=1e-5)
        other = ngram_loss(main, 1.01 * streams, targets, head, torch.tensor([0.0, 1.0, 1.0]), supervision)
        assert other.total.item() > 1e-3


@pytest.mark.parametrize("scale", [1.0, 40.0], ids=["near", "far_from_what_the_main_stream_says"])
def test_the_overlap_with_a_point_mass_is_the_cross_entropy(scale):
    _main, streams, targets = completions([7], 3)
    streams = (scale * streams).detach().requires_grad_()
    head = torch.nn.Linear(WIDTH + VOCABULARY, VOCABULARY)  # the main stream's states name their token themselves
    with torch.no_grad():
        head.weight[:, WIDTH:] = 1e4 * torch.eye(VOCABULARY)
    named = F.pad(F.one_hot(targets[:, 0], VOCABULARY).float(), (WIDTH, 0))
    streams_in = F.pad(streams, (0, VOCABULARY))
    weights = torch.tensor([0.0, 1.0, 0.5, 0.25])
    reference = ngram_loss(named, streams_in, targets, head, weights)
    overlap = ngram_loss(named, streams_in, targets, head, weights, "acceptance")
    torch.testing.assert_close(overlap.total, reference.total)
    expected, found = (torch.autograd.grad(result.total, streams)[0] for result in (reference, overlap))
    assert found.abs().max() > 1e-2
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("gap", [1e3, 3e38], ids=["a_thousand", "the_end_of_float32"])
def test_distributions_that_do_not_overlap_give_finite_gradients(gap):
    main, streams, targets = completions([4], 2)
    head = torch.nn.Linear(WIDTH, 2, bias=False)
    with torch.no_grad():
        head.weight.copy_(torch.stack((torch.full((WIDTH,), 1.0), torch.full((WIDTH,), -1.0))))
    main = torch.full_like(main, gap / (4 * WIDTH))
    streams = torch.full_like(streams, -gap / (4 * WIDTH)).requires_grad_()
    for supervision in ("acceptance", "accepted_length"):
        result = ngram_loss(main, streams, targets.clamp(max=1), head, torch.ones(3), supervision)
        (gradient,) = torch.autograd.grad(result.total, streams)
        assert gradient.isfinite().all()
        if gap < 1e30:
            assert result.total.isfinite()
            assert gradient[:2].abs().max() > 0.5


@pytest.mark.parametrize("alphas", [[0.9, 0.5, 0.2], [1e-30, 0.5, 0.5], [1.0, 1.0, 1.0]], ids=str)
def test_length_loss_of_one_chain(alphas):
    losses = -torch.tensor([alphas]).log()
    weights, possible = torch.tensor([1.0, 1.0, 1.0]), torch.ones(1, 3, dtype=torch.bool)
    a, b, c = alphas
    assert length_loss(losses, possible, weights).item() == pytest.approx(
        -3 * torch.tensor((a + a * b + a * b * c) / 3).log().item(), rel=1e-5, abs=1e-6
    )
    assert length_loss(losses[:, :1], possible[:, :1], weights[:1]).item() == pytest.approx(losses[0, 0].item())
