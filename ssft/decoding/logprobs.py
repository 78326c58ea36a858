"""Log-probabilities of produced tokens, where a request asks for them."""

from collections.abc import Sequence

from torch import Tensor

from ssft.decoding.row import Row


def note_logprobs(rows: Sequence[Row], logits: Tensor, paths: Sequence[list[int]]) -> None:
    """Note those of the tokens that the latest pass gave each row, as `Generation.logprobs` says.

    logits [B, n, V] are the main stream's at the nodes; paths [B][..] the accepted ones.
    """
    for b, row in enumerate(rows):
        if (most := row.request.top_logprobs) is None:
            continue
        result = row.result
        new = result.token_ids[len(result.logprobs) :]
        found = logits[b, paths[b][: len(new)]].float().log_softmax(dim=-1)
        result.logprobs += found[range(len(new)), new].tolist()
        best, ids = found.topk(min(most, found.shape[-1]), dim=-1)
        places = zip(ids.tolist(), best.tolist(), strict=True)
        result.top_logprobs += [dict(zip(*place, strict=True)) for place in places]
