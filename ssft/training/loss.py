"""The n-gram prediction loss (paper §3.2.4) as pure functions.

    L = α_0 · CE(main, y_t) + Σ_j α_j · CE(stream j, y_{t+j})

With a prompt x0 x1 and a completion x2 x3 x4 (labels -100 -100 x2 x3 x4), γ = 2, the main stream at t predicts
y_t = labels[t+1], stream j at t predicts y_{t+j} = labels[t+1+j]:

    source t      1    2    3
    main          x2   x3   x4
    stream 1      x3   x4   -
    stream 2      x4   -    -          "-" lies past the end and is masked out (-100)

A draft is accepted when it is what the main stream itself says, so a stream may as well learn that: with the main
stream's distribution p_t at source t in place of the reference, CE(stream j, y_{t+j}) becomes CE(stream j, p_{t+j}):

    stream 1      p2   p3   -
    stream 2      p3   -    -

What speculation lives on is not the cross-entropy but the probability that a token drawn from q, the stream's
distribution, is accepted: α = Σ_v min(p(v), q(v)). Its negative logarithm is a loss of its own (the LK loss of arXiv
2602.23881), which is the cross-entropy where p is a point mass, and with α_d at depth d the accepted length of a chain
is Σ_d Π_{j≤d} α_j, whose logarithm joins the depths: a deep stream counts as far as those before it are right.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

IGNORE = -100

Supervision = Literal["reference", "main", "acceptance", "accepted_length"]
"""What streams learn: the tokens of the completion, or of the main stream's distribution all of it (cross-entropy), the
overlap with it (-log α), or the length that a chain of all streams is accepted to (see `length_loss`)."""

MainSupervision = Literal["reference", "start", "both"]
"""What the main stream learns: the tokens of the completion, the distribution that it had as the run began, or both."""

HEAD_ROWS = 2048
"""Rows of logits in memory at a time; more are recomputed in backward, so memory does not grow with γ·completion."""


@dataclass(frozen=True)
class Candidates:
    """The v token ids that streams guess from.

    ids [v]: sorted, each once; None: all that the base has. logits: the head over them alone, [rows, h] -> [rows, v].
    """

    ids: Tensor | None
    logits: Callable[[Tensor], Tensor]

    def places(self, tokens: Tensor) -> Tensor:
        """Token ids [..] that are among them, or -100 -> their places among the v, or -100."""
        if self.ids is None:
            return tokens
        return torch.searchsorted(self.ids, tokens.clamp(min=0)).masked_fill(tokens == IGNORE, IGNORE)

    def tokens(self, places: Tensor) -> Tensor:
        """Places among the v [..] -> token ids [..]."""
        return places if self.ids is None else self.ids[places]

    def of(self, values: Tensor) -> Tensor:
        """Values of all tokens [rows, V] -> those of the v [rows, v]."""
        return values if self.ids is None else values[:, self.ids]


def stream_targets(labels: Tensor, num_streams: int) -> tuple[Tensor, Tensor]:
    """Where streams start and what they predict.

    Args:
        labels: [B, T], -100 on tokens without loss; not shifted, as TRL's collator gives them.
        num_streams: γ.

    Returns:
        sources [B, S]: rows t whose next token carries a loss, in order; rows with fewer are padded with row 0.
        targets [B, S, γ+1]: y_t, y_{t+1}, … y_{t+γ} of each source; -100 on padding and from the first target that
        lies past the end of its completion on.
    """
    shifted = F.pad(labels, (0, num_streams + 1), value=IGNORE)[:, 1:]
    windows = shifted.unfold(1, num_streams + 1, 1)  # [B, T, γ+1]
    # A target counts only if all before it do: else a stream would reach across the prompt of the next turn.
    unbroken = (windows != IGNORE).cumprod(dim=-1).bool()
    windows = windows.masked_fill(~unbroken, IGNORE)
    starts = unbroken[..., 0]
    counts = starts.sum(dim=1)
    size = max(int(counts.max()), 1)
    # A stable sort brings each row's sources to the front and keeps their order.
    order = torch.argsort((~starts).int(), dim=1, stable=True)[:, :size]
    valid = torch.arange(size, device=labels.device) < counts.unsqueeze(1)
    sources = order.masked_fill(~valid, 0)
    index = order.unsqueeze(-1).expand(-1, -1, num_streams + 1)
    targets = windows.gather(1, index).masked_fill(~valid.unsqueeze(-1), IGNORE)
    return sources, targets


@dataclass
class NgramLoss:
    """Result of `ngram_loss`: the sums that a caller divides by the tokens of the whole accumulated batch.

    main, streams: scalars, α-weighted sums over tokens, of the main stream and of all streams, with gradient; total:
    both together. sums, counts: [γ+1], unweighted loss sums and number of targets of the main stream (index 0) and of
    each stream, which is -log α for `accepted_length` too. choices: [S_valid, γ+1], the argmax of each, no gradient.
    """

    main: Tensor
    streams: Tensor
    sums: Tensor
    counts: Tensor
    choices: Tensor

    @property
    def total(self) -> Tensor:
        return self.main + self.streams


def ngram_loss(
    main: Tensor,
    streams: Tensor,
    targets: Tensor,
    logits: Callable[[Tensor], Tensor],
    weights: Tensor,
    supervision: Supervision = "reference",
    candidates: Candidates | None = None,
) -> NgramLoss:
    """L over M sources (paper §3.2.4), summed, not averaged.

    Args:
        main: [M, h], what the head reads of the main stream at each source; sources of one completion in order.
        streams: [M, γ, h], likewise of its streams.
        targets: [M, γ+1] from `stream_targets`, -100 = ignored.
        logits: the head, [rows, h] -> [rows, V].
        weights: [γ+1], α_0 … α_γ.
        supervision: what streams learn, the tokens of `targets` or by one of three measures the main stream's own
            distribution there, into which no gradient flows.
        candidates: what streams guess from, every target among them. A stream's distribution is one over these tokens,
            and of the main stream's they learn what it says of them. None: the whole vocabulary.
    """
    size, width = targets.shape  # width = γ+1
    guessable = candidates or Candidates(None, logits)
    # The sources of a chunk are scored with the γ after them where streams learn from those.
    more = 0 if supervision == "reference" else width - 1

    def score(main: Tensor, streams: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        count = len(targets)  # sources
        # Apart, so that no gradient is made of logits of a main stream that has none.
        said = logits(main).float()  # [m, V]
        guesses = guessable.logits(streams.flatten(0, 1)).float().unflatten(0, (count, width - 1))  # [m, γ, v]
        first, choice = token_losses(said[:count], targets[:, 0])
        losses, places = token_losses(guesses, guessable.places(targets[:, 1:]))
        choices = guessable.tokens(places)
        if more:
            # Rows past the last source are never looked at: their targets are -100.
            ahead = torch.arange(count, device=main.device).unsqueeze(1) + torch.arange(1, width, device=main.device)
            ahead = ahead.clamp(max=len(main) - 1)  # [m, γ]
            log_p = guessable.of(said.detach().log_softmax(dim=-1))[ahead]  # [m+γ, v] -> [m, γ, v]
            if supervision == "main":
                p = log_p.exp()
                losses = p.sum(dim=-1) * guesses.logsumexp(dim=-1) - (p * guesses).sum(dim=-1)
            else:  # -log α; a sum of exponentials of the smaller logarithms is safe where p and q hardly overlap
                losses = -torch.minimum(log_p, guesses.log_softmax(dim=-1)).logsumexp(dim=-1)
            losses = losses.masked_fill(targets[:, 1:] == IGNORE, 0.0)
        return torch.cat((first.unsqueeze(1), losses), dim=1), torch.cat((choice.unsqueeze(1), choices), dim=1)

    rows = max(HEAD_ROWS // width, 1)
    starts = range(0, max(size, 1), rows)
    pieces = [(main[i : i + rows + more], streams[i : i + rows], targets[i : i + rows]) for i in starts]
    losses, choices = piece_by_piece(score, pieces)
    weights = weights.to(losses.dtype)
    if supervision == "accepted_length":
        of_streams = length_loss(losses[:, 1:], targets[:, 1:] != IGNORE, weights[1:])
    else:
        of_streams = (losses[:, 1:] * weights[1:]).sum()
    of_main, counts = weights[0] * losses[:, 0].sum(), (targets != IGNORE).sum(dim=0)
    return NgramLoss(of_main, of_streams, losses.detach().sum(dim=0), counts, choices)


def token_losses(scores: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Logits [.., V] in float32 and targets [..] -> cross-entropies and argmaxes [..]; 0 where a target is -100."""
    losses = F.cross_entropy(scores.flatten(0, -2), targets.flatten(), ignore_index=IGNORE, reduction="none")
    return losses.view_as(targets), scores.detach().argmax(-1)


def length_loss(losses: Tensor, possible: Tensor, weights: Tensor) -> Tensor:
    """The joint loss of a chain on the length that it is accepted to, summed over M sources:

        - W · log( Σ_d w_d Π_{j≤d} α_j / W ),   W = Σ_d w_d,   over the depths d that have a target

    It is 0 where every α is 1, and w_1 · -log α_1 for one stream. Early in training it pulls at the first stream alone,
    as W · -log α_1, since no chain comes past it; where all α are near 1, depth j is pulled at by w_j + … + w_γ.

    Args:
        losses: [M, γ], -log α_j.
        possible: [M, γ], where there is a target; none comes after the first that is missing.
        weights: [γ], w_d.
    """
    any_depth = possible[:, :1]  # [M, 1]
    counted = possible | ~any_depth  # a source without any gets finite numbers, which are masked out at the end
    log_weights = weights.clamp(min=torch.finfo(weights.dtype).tiny).log().expand_as(losses)
    log_weights = log_weights.masked_fill(~counted, float("-inf"))
    short = log_weights.logsumexp(dim=1) - (log_weights - losses.cumsum(dim=1)).logsumexp(dim=1)  # [M]
    return ((possible * weights).sum(dim=1) * short).sum()


def piece_by_piece(
    score: Callable[..., tuple[Tensor, Tensor]], pieces: Sequence[tuple[Tensor, ...]]
) -> tuple[Tensor, Tensor]:
    """Losses and choices of all pieces, one after the other; several are computed again in backward."""
    if len(pieces) == 1:
        return score(*pieces[0])
    parts = [checkpoint(score, *piece, use_reentrant=False) for piece in pieces]
    losses, choices = zip(*parts, strict=True)
    return torch.cat(losses), torch.cat(choices)


def chain_acceptance(choices: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """How deep a chain of the streams' best tokens would be accepted, teacher-forced on the reference.

    Stream j at source t is right if it names what the main stream itself names at t+j; depth j counts if depths 1..j
    are all right. Sources whose target at depth j lies past the end are left out of depth j.

    Args:
        choices: [S, γ+1], argmax of main and streams at the consecutive sources of ONE completion.
        targets: [S, γ+1], -100 where a stream has no target.

    Returns:
        accepted, possible: [γ] counts; accepted / possible is the acceptance at each depth.
    """
    size, width = choices.shape
    # The main stream's own choice at t+j is column 0, j rows further down.
    ahead = F.pad(choices[:, 0], (0, width - 1), value=IGNORE).unfold(0, width, 1)[:size, 1:]
    possible = (targets[:, 1:] != IGNORE) & (ahead != IGNORE)
    accepted = ((choices[:, 1:] == ahead) & possible).cumprod(dim=1)
    return accepted.sum(dim=0), possible.sum(dim=0)
