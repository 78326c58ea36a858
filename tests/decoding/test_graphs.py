"""What needs the host in the middle of a pass is found, and the stand-in for a CUDA graph runs no Python."""

import pytest
import torch
from graph_stand_in import Recording

from ssft.decoding.graphs import NoHostReads


@pytest.mark.parametrize(
    "read",
    [
        lambda x: x.sum().item(),
        lambda x: bool((x > 0).any()),
        lambda x: x + torch.tensor([1.0, 2.0]),
        lambda x: x[x > 0],
        lambda x: x.nonzero(),
        lambda x: x.to("meta"),
        lambda x: torch.empty(2, device="meta").copy_(x),
        lambda x: torch.equal(x, x),
        lambda x: torch.masked_select(x, x > 0),
    ],
)
@pytest.mark.parametrize("inference", [False, True])
def test_what_needs_the_host_is_found(read, inference):
    with torch.inference_mode(inference):
        x = torch.randn(2)
        with pytest.raises(RuntimeError, match="needs the host in the middle of a pass"), NoHostReads():
            read(x)


def test_what_needs_no_host_is_let_be():
    x = torch.randn(4, 6)
    with NoHostReads():
        y = x[:, 1:3] * 2.5 + torch.arange(4).unsqueeze(1)
        y = y.to(torch.bfloat16)[torch.arange(2)].scatter_(1, torch.zeros(2, 1, dtype=torch.long), 1.0)
        y[:, 0] = y[:, 1].masked_fill(y[:, 1] > 0, 3.0)
    assert y.shape == (2, 2)


def test_the_stand_in_replays_operators_and_no_python():
    number, x = 2, torch.ones(3)
    run = Recording()(lambda: ((x * number).view(3, 1).add_(x.sum()), None))
    number = 100
    x.fill_(5.0)
    assert run()[0].flatten().tolist() == [5 * 2 + 15] * 3
