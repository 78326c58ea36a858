"""`MixedStreams`: the streams of a batch whose rows have adapters, and so γ, N_s and identifier, of their own.

A pass has one shape for all rows, so it carries as many streams as the row with most of them (g) and starts them
where the row with most layers starts (max N_s). A row whose streams start later is given them there, over what stood
in its stream rows until then; its streams beyond its own γ are padding. Neither is ever seen: no main row attends to a
stream, and no stream to a later one.
"""

from collections.abc import Sequence
from typing import TypeVar

from torch import Tensor

from ssft.streams.modules import StreamModules

T = TypeVar("T")


def runs_of(rows: Sequence[T | None]) -> list[tuple[slice, T]]:
    """Neighbouring rows that have the same object, as one slice each; rows that have None are in no slice."""
    runs: list[tuple[slice, T]] = []
    begin = 0
    for end in range(1, len(rows) + 1):
        if end < len(rows) and rows[end] is rows[begin]:
            continue
        if (value := rows[begin]) is not None:
            runs.append((slice(begin, end), value))
        begin = end
    return runs


class MixedStreams:
    """What a `StreamPlan` needs of streams, row by row; None is a row without streams."""

    def __init__(self, rows: list[StreamModules | None]) -> None:
        self.runs = runs_of(rows)
        self.msa_layers = tuple(sorted({m for _, modules in self.runs for m in modules.msa_layers}, reverse=True))

    def insert(self, main: Tensor, num_streams: int) -> Tensor:
        """Streams where the first of them start, N − max N_s: main [B, S, h] -> streams [B, S·g, h]."""
        streams = main.repeat_interleave(num_streams, dim=1)
        return self.restart(streams, main, num_streams, self.msa_layers[0])

    def restart(self, streams: Tensor, main: Tensor, num_streams: int, msa_layers: int) -> Tensor:
        """Give the rows with N_s = `msa_layers` their streams: main [B, S, h] -> streams [B, S·g, h], in place."""
        blocks = streams.unflatten(1, (-1, num_streams))
        for rows, modules in self.runs:
            if msa_layers in modules.msa_layers:
                own = min(num_streams, modules.config.num_streams)
                blocks[rows, :, :own] = modules.insert(main[rows], own).unflatten(1, (-1, own))
        return streams

    @property
    def rotates(self) -> bool:
        """Whether any row's streams are told apart by value rotation."""
        return any(modules.rotates for _, modules in self.runs)

    def rotate_values(self, values: Tensor, num_streams: int) -> Tensor:
        """Value rotation of the rows that use it: values [B, H, S·g, D] -> the same, a copy."""
        rotated = values.clone()
        for rows, modules in self.runs:
            if modules.rotates:
                rotated[rows] = modules.rotate_values(values[rows], num_streams)
        return rotated


def streams_of_rows(rows: list[StreamModules | None]) -> StreamModules | MixedStreams | None:
    """The streams of a batch: the modules themselves where all rows share them, None where no row has any."""
    if all(modules is rows[0] for modules in rows):
        return rows[0]
    return MixedStreams(rows)
