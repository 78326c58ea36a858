"""`PassCosts`: the milliseconds c(B, n, m) of a pass, measured once on this device and kept in ssft's cache folder.

A pass over B rows has one shape for all: every row is padded to n nodes, and m nodes of every row carry g streams
(`step.py`). So c(B, n, m) is what B rows cost together, whoever of them uses his nodes. It holds the masks, the layers,
both heads and the waiting for the device, and is measured with the real step over a cache of some 200 tokens, at the
points `NODES` × `SOURCES` for B = 1, 2, 4, 8, … as such a batch first comes. In between c is linear in n and in m, and
beyond the last point it goes on as steeply as before it.

What else takes the machine can only make a pass slower, and a larger pass costs no less than a smaller one. So a point
is the fastest of a few passes, one in each round over all points, and never more than any point with as many nodes and
stream nodes: c(n, m) = min over n' ≥ n, m' ≥ m of what was measured there. What is wrong all the same shows once passes
run: see `drift.py`.
"""

import json
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from ssft.base.embedded import cache_dir
from ssft.base.fingerprint import shape_sha256
from ssft.base.kernels.linears import kernel_names
from ssft.decoding.accept.batch import accept
from ssft.decoding.cache import TreeCache
from ssft.decoding.draft.drafter import Stop
from ssft.decoding.request import Request
from ssft.decoding.row import Row
from ssft.decoding.step import Step
from ssft.decoding.tree import DraftTree
from ssft.environment import describe_device, versions
from ssft.errors import ConfigError
from ssft.files import json_sha256, to_json, write_json
from ssft.schema import read

NODES = (1, 2, 4, 8, 16)
SOURCES = (0, 1, 2, 4)
TOKENS = 200
"""Of every row in the cache while passes are measured."""
ROUNDS, LEAST, SECONDS = 6, 2, 3.0
"""Passes at every point, unless so many would take longer than that; `LEAST` at least."""

_log = logging.getLogger(__name__)


@dataclass
class CostTable:
    """Measured milliseconds [nodes][sources] of a pass whose rows have so many `nodes` and stream nodes (`sources`).

    upper: the share of the layers that have streams.
    """

    nodes: list[int]
    sources: list[int]
    milliseconds: list[list[float]]
    upper: float = 0.0

    def table(self, nodes: int, sources: int, left: float = 1.0) -> np.ndarray:
        """[nodes, sources + 1] milliseconds with 1 … nodes nodes and 0 … sources stream nodes.

        left: the share of both that goes on above the insertion layer, the root always; passes without streams drop
        nothing.
        """
        by_nodes = _between(_at_most_larger(np.array(self.milliseconds)), self.nodes, np.arange(1, nodes + 1))
        found = _between(by_nodes.T, self.sources, np.arange(sources + 1)).T
        # Beyond the points lines of different slopes may cross.
        found = np.maximum.accumulate(np.maximum.accumulate(found, axis=0), axis=1)
        return found if left >= 1 else self._pruned(found, left)

    def _pruned(self, whole: np.ndarray, left: float) -> np.ndarray:
        """c(n, m) - u · (c(n, 0) - c(l·n, 0)) - (c(n, m) - c(n, l·m)), where u is `upper` and l `left`."""
        n, m, plain = np.arange(1, len(whole) + 1), np.arange(whole.shape[1]), whole[:, 0]
        spared = self.upper * (plain - np.interp(np.maximum(left * n, 1), n, plain))
        found = np.stack([np.interp(np.maximum(left * m, np.minimum(m, 1)), m, row) for row in whole])
        return np.concatenate((whole[:, :1], (found - spared[:, None])[:, 1:]), axis=1)


def _at_most_larger(measured: np.ndarray) -> np.ndarray:
    """[nodes, sources] milliseconds, none above those of a larger pass."""
    for axis in (0, 1):
        measured = np.flip(np.minimum.accumulate(np.flip(measured, axis), axis), axis)
    return measured


def _between(values: np.ndarray, at: list[int], wanted: np.ndarray) -> np.ndarray:
    """Rows of values [k, ..] at the places `at` -> rows at `wanted`; straight lines between and beyond them."""
    if len(at) == 1:
        return np.repeat(values, len(wanted), axis=0)
    left = np.clip(np.searchsorted(at, wanted, "right") - 1, 0, len(at) - 2)
    places = np.array(at)
    share = ((wanted - places[left]) / (places[left + 1] - places[left]))[:, None]
    return values[left] * (1 - share) + values[left + 1] * share


class PassCosts:
    """Cost tables of one model: measured where the cache folder has none for all that a pass depends on."""

    def __init__(self, step: Step) -> None:
        self.step = step
        self._tables: dict[tuple[Any, ...], CostTable] = {}

    def of(self, rows: Sequence[Row]) -> CostTable:
        """The table of a pass over these rows: of as many rows, in powers of two, with the adapter of most streams.

        The caller holds the model's turn, since the first call measures.
        """
        return self.for_request(max((row.request for row in rows), key=_stream_work), len(rows))

    def for_request(self, request: Request, rows: int, *, again: bool = False) -> CostTable:
        """The table of a pass over `rows` rows that are all like `request`.

        again: measure it though it is known, as the machine may have been busy. Measuring shows a bar on stderr once it
        takes more than two seconds.
        """
        size = 1 << (rows - 1).bit_length()
        mine = (size, torch.get_num_threads(), *_shape_of(request).values())
        if again or mine not in self._tables:
            self._tables[mine] = self._kept_or_measured(request, size, again)
        return self._tables[mine]

    # -- kept -----------------------------------------------------------------------------------------------------

    def key(self, request: Request, size: int) -> dict[str, Any]:
        """All that the cost of a pass depends on."""
        model = self.step.backbone.model
        libraries = versions()
        return {
            "device": describe_device(model.device),
            "threads": torch.get_num_threads(),
            "precision": str(model.dtype),
            "kernels": kernel_names(model),
            "step": type(self.step).__name__,
            "versions": {name: libraries.get(name) for name in ("ssft", "torch", "transformers", "bitsandbytes")},
            "base": shape_sha256(model),
            "adapter": _shape_of(request),
            "rows": size,
            "points": [NODES, SOURCES],
        }

    def _kept_or_measured(self, request: Request, size: int, again: bool) -> CostTable:
        key = to_json(self.key(request, size))
        path = cache_dir() / "costs" / f"{json_sha256(key)[:32]}.json"
        if not again and (kept := _read(path, key)) is not None:
            return kept
        where = f"{size} row{'s' * (size > 1)}, {key['precision'].removeprefix('torch.')} on {key['device']}"
        _log.info("measuring once what a pass costs: %s", where)
        table = self._measure(request, size)
        try:
            write_json(path, {"key": key, "table": table})
        except (ConfigError, OSError) as error:
            _log.warning("the measured cost of a pass cannot be kept, so the next run measures it again: %s", error)
        return table

    # -- measured -------------------------------------------------------------------------------------------------

    @torch.inference_mode()
    def _measure(self, request: Request, size: int) -> CostTable:
        length = min(TOKENS, self.step.backbone.context_length // 2)
        tree = replace(request.tree, max_nodes=NODES[-1], max_batch_nodes=0)
        own = Request([0] * length, 1, request.drafter, tree, request.adapter)
        rows = [Row(own, 1, DraftTree([0])) for _ in range(size)]
        cache = self.step.new_cache(rows)
        sources = SOURCES if own.stream_depth else SOURCES[:1]
        points = [(n, m) for n in range(len(NODES)) for m in range(len(sources)) if sources[m] <= NODES[n]]
        found = np.full((len(NODES), len(sources)), np.inf)
        # Whatever is made at first use is made here.
        for n, m in [points[0], points[-1], *points * self.step.slow_passes]:
            self._run(rows, NODES[n], sources[m], cache, length)
        begin, total = time.perf_counter(), ROUNDS * len(points)
        with tqdm(total=total, desc="cost of a pass", unit="pass", delay=2, disable=None, leave=False) as bar:
            for done in range(1, ROUNDS + 1):
                for n, m in points:
                    start = time.perf_counter()
                    self._run(rows, NODES[n], sources[m], cache, length)
                    found[n, m] = min(found[n, m], 1e3 * (time.perf_counter() - start))
                    bar.update()
                if done >= LEAST and (time.perf_counter() - begin) * (done + 1) / done > SECONDS:
                    break
        upper = max(own.streams.msa_layers) / self.step.backbone.num_layers if own.streams is not None else 0.0
        return CostTable(list(NODES), list(sources), _at_most_larger(found).tolist(), upper)

    def _run(self, rows: list[Row], nodes: int, sources: int, cache: TreeCache, length: int) -> None:
        """One pass over chains of `nodes` nodes, after which the cache holds `length` tokens of every row as before."""
        cache.set_lengths([length] * len(rows))
        for row in rows:
            row.tree = DraftTree([0] * nodes, list(range(-1, nodes - 1)), list(range(nodes)), [0.0] * nodes)
        states = self.step.trees(rows, [[m % nodes for m in range(sources)]] * len(rows), cache)
        # Reading the choices waits for the device.
        _, issued = accept(rows, self.step.logits(rows, states.main))
        drafter = rows[0].request.drafter
        if drafter is not None:
            drafter.propose([Stop(row, b, 0, issued[b]) for b, row in enumerate(rows)], states, self.step)
        cache.keep([[0]] * len(rows))


def _stream_work(request: Request) -> int:
    """Rows that the streams of one node add, over all layers."""
    return 0 if request.streams is None else request.stream_depth * max(request.streams.msa_layers)


def _shape_of(request: Request) -> dict[str, Any]:
    """What the cost of a pass depends on in a request."""
    streams, tree = request.streams, request.tree
    # Nothing is below a threshold while costs are measured: passes have the prune head and drop what `prune_keep` does.
    pruning = {"prune_head": True, "prune_keep": tree.prune_keep} if request.prunes else {}
    return {
        **pruning,
        "drafter": type(request.drafter).__name__,
        "depth": request.depth,
        "layers": 0 if streams is None else streams.config.num_msa_layers,
        "projection_rank": 0 if streams is None else streams.config.projection_rank,
        "top_k": tree.top_k,
        "vocabulary": getattr(getattr(request.drafter, "vocabulary", None), "nbytes", 0),
        "lora_bytes": getattr(request.adapter, "nbytes", 0),
    }


def _read(path: Path, key: dict[str, Any]) -> CostTable | None:
    """The table in a file, if it is whole and was measured for `key`."""
    try:
        held = json.loads(path.read_text(encoding="utf-8"))
        table: CostTable = read(CostTable, held["table"], "table")
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        _log.warning("%s cannot be read, so the cost of a pass is measured again: %s", path, error)
        return None
    shape = (len(table.nodes), len(table.sources))
    whole = (
        held.get("key") == key and np.shape(table.milliseconds) == shape and np.all(np.array(table.milliseconds) > 0)
    )
    return table if whole else None
