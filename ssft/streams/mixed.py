"""`MixedStreams`: the streams of a batch whose rows have adapters, and so γ, N_s and identifier, of their own.

A pass has one shape for all rows, so it carries as many streams as the row with most of them (g) and starts them
where the row with most layers starts (max N_s). A row whose streams start later is given them there, over what stood
in its stream rows until then; its streams beyond its own γ are padding. Neither is ever seen: no main row attends to a
stream, and no stream to a later one.
"""

from torch import Tensor

from ssft.streams.modules import StreamModules


class MixedStreams:
    """What a `StreamPlan` needs of streams, row by row; None is a row without streams."""

    def __init__(self, rows: list[StreamModules | None]) -> None:
        self.runs: list[tuple[slice, StreamModules]] = []
        begin = 0
        for end in range(1, len(rows) + 1):
            if end < len(rows) and rows[end] is rows[begin]:
                continue
            if (modules := rows[begin]) is not None:
                self.runs.append((slice(begin, end), modules))
            begin = end
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

    def rotate_values(self, values: Tensor, num_streams: int) -> Tensor | None:
        """Value rotation of the rows that use it: values [B, H, S·g, D]; None: no row does."""
        rotated = None
        for rows, modules in self.runs:
            part = modules.rotate_values(values[rows], num_streams)
            if part is not None:
                rotated = values.clone() if rotated is None else rotated
                rotated[rows] = part
        return rotated


def streams_of_rows(rows: list[StreamModules | None]) -> StreamModules | MixedStreams | None:
    """The streams of a batch: the modules themselves where all rows share them, None where no row has any."""
    if all(modules is rows[0] for modules in rows):
        return rows[0]
    return MixedStreams(rows)
