"""Write the tables in README and docs: measured numbers from the files that lie with the shipped adapters, and bases.

    python docs/tables.py            # writes what differs
    python docs/tables.py --check    # writes nothing; exit code 1 if a document differs

The table of drafts is written from the facts of `ssft eval` in docs/drafts, for which no adapter ships.

A table stands between the lines `<!-- ssft:table NAME -->` and `<!-- /ssft:table -->`; NAME is a function in `TABLES`.
Whoever measures an adapter again runs `ssft card`, which keeps the result in the adapter's folder, and then this. The
table of bases is written from their aliases (`ssft/base/named.py`).
"""

import json
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from ssft.base.named import ALIASES
from ssft.bundle.format import Bundle, LoraPart
from ssft.bundle.read import read_bundle
from ssft.card.results import read_results
from ssft.card.rows import QualityRow, Rows, SpeedRow, rows_of
from ssft.results.schema import Interval
from ssft.training.measure import MEASURED

ROOT = Path(__file__).resolve().parent.parent
DOCUMENTS = ["README.md", "adapters/README.md", *sorted(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md"))]
PLACE = re.compile(r"^(<!-- ssft:table (\w+) -->\n).*?^(<!-- /ssft:table -->)$", re.MULTILINE | re.DOTALL)

COMPILED = "generate_static"
Adapter = tuple[str, Bundle, Rows]


def shipped() -> Iterator[Adapter]:
    """Name, bundle and rows of every folder in `adapters/`; raises `ValueError` for results of other weights."""
    for path in sorted((ROOT / "adapters").glob("*/adapter_config.json")):
        bundle = read_bundle(path.parent)
        results = read_results(bundle)
        if results.stale:
            raise ValueError(
                f"{path.parent}: results {results.stale} are in results.json; measure again, run `ssft card`"
            )
        yield path.parent.name, bundle, rows_of(results, bundle)


# -- the tables -------------------------------------------------------------------------------------------------


def speed(adapters: list[Adapter]) -> str:
    """A line per adapter, fastest first: its own tree, one prompt at a time, against the fastest plain method there."""
    timed = {name: _timed(name, rows) for name, _, rows in adapters}
    settings = {
        f"{row.rows} rows of {row.data}, at most {row.max_new_tokens} tokens each, one prompt at a time, "
        f"{row.rounds} rounds, {row.precision}, {row.device}"
        for row in timed.values()
    }
    if len(settings) != 1:
        raise ValueError(f"the timed runs differ, so that one table cannot hold them: {'; '.join(sorted(settings))}")
    lines = []
    for name, bundle, _ in sorted(adapters, key=lambda adapter: -(timed[adapter[0]].speedup or 0)):
        row, own = timed[name], bundle.streams_own_lora
        extra = f"{bundle.stream_parameters:,}" + (f", and a LoRA of their own: {own.parameters:,}" if own else "")
        lines.append([_link(name), _per_pass(row), f"{_times(row)} {_said(row.baseline)}", extra])
    titles = ["adapter", "tokens per pass", "speed-up over the fastest plain method", "extra parameters"]
    rows = [row for _, _, found in adapters for row in found.speed]
    plain = {row.method for row in rows if row.rounds and row.calls == row.tokens}
    missing = "" if COMPILED in plain else f"; none of these runs timed a compiled `generate` (`{COMPILED}`)"
    checked = [row for row in rows if row.source == "verify" and row.precision == "float32"]
    same = f"{sum(row.identical or 0 for row in checked)} of {sum(row.rows for row in checked)}"
    return (
        f"{_table(titles, lines)}\nIn brackets: 95 % intervals. Measured on {settings.pop()}. The plain methods were "
        f"{' and '.join(_said(method) for method in sorted(plain))}{missing}. `ssft verify` found "
        f"the text of plain decoding in {same} rows in float32.\n"
    )


def runs(adapters: list[Adapter]) -> str:
    """Every measurement of speed and identity that lies with the adapters."""
    lines = [
        [
            _link(name),
            row.method,
            _per_pass(row),
            "" if row.speedup is None else _times(row),
            _said(row.baseline) if row.baseline else "",
            "" if row.identical is None else f"{row.identical} of {row.rows}",
            row.tree,
            f"`ssft {row.source}`, {row.rows} of {row.data}, batch {row.batch_size}, {row.precision}, {row.device}",
        ]
        for name, _, rows in adapters
        for row in rows.speed
    ]
    titles = ["adapter", "method", "tokens per pass", "speed-up", "over", "plain's text", "tree", "measured by"]
    return _table(titles, lines)


def quality(adapters: list[Adapter]) -> str:
    """Every metric beside the plain LoRA's."""
    lines = [
        [_link(name), row.metric, _estimate(row.value, row.interval), *_beside(row), str(row.rows)]
        for name, _, rows in adapters
        for row in rows.quality
    ]
    return _table(["adapter", "metric, in percent", "with streams", "plain LoRA", "paired difference", "rows"], lines)


def sizes(adapters: list[Adapter]) -> str:
    """What each adapter adds to the base."""
    lines = [
        [
            _link(name),
            _parameters(bundle.text_lora, "none, the text is the base's"),
            f"{bundle.stream_config.num_streams}, in the top {bundle.stream_config.num_msa_layers} layers",
            f"{bundle.stream_parameters:,}",
            _parameters(bundle.streams_own_lora, "none, they share the text's"),
            f"{bundle.weights_bytes:,}",
        ]
        for name, bundle, _ in adapters
        if bundle.stream_config is not None
    ]
    titles = ["folder", "LoRA of the text", "streams", "their embeddings", "their own LoRA", "bytes of weights"]
    return _table(titles, lines)


def bases(_adapters: list[Adapter]) -> str:
    """What every alias stands for."""
    rows = [
        [
            f"`{base.name}`",
            f"`{base.hub_id}`{', gated' if base.gated else ''}",
            base.licence,
            f"{base.parameters / 1e6:,.0f} M",
            str(base.layers),
        ]
        for base in ALIASES.values()
    ]
    return _table(["alias", "on the hub", "licence", "parameters", "layers"], rows)


QUARTERS = (0.25, 0.5, 0.75, 1)


def curves(adapters: list[Adapter]) -> str:
    """Tokens per call that each training measured on its way, after every quarter of its steps."""
    lines = []
    for name, bundle, _ in adapters:
        told = bundle.provenance
        measured = {entry["step"]: entry[MEASURED] for entry in told["history"] if MEASURED in entry}
        if measured and bundle.stream_config is not None:
            steps = [min(measured, key=lambda step: abs(step - share * told["steps"])) for share in QUARTERS]
            minutes = told["train_seconds"] / told["steps"] / 60
            streams = f"{bundle.stream_config.num_streams} in {bundle.stream_config.num_msa_layers} layers"
            points = [f"{measured[step]:.2f} after {step * minutes:.0f} min" for step in steps]
            lines.append([_link(name), streams, f"{told['train_rows']:,}", *points, told["device"]])
    return _table(["adapter", "streams", "rows", *(f"{share:.0%} of its steps" for share in QUARTERS), "on"], lines)


DRAFTS = {"own": "the task's own", "mixed": "one set for the three tasks", "chat": "of chat"}


def drafts(_adapters: list[Adapter]) -> str:
    """Tokens per call of streams for one task and for all of them, from files SET_TASK.json."""
    held = [tuple(path.stem.split("_", 1)) for path in (ROOT / "docs" / "drafts").glob("*.json")]
    tasks = sorted({task for _, task in held})
    if sorted(held) != sorted((kind, task) for kind in DRAFTS for task in tasks):
        raise ValueError(f"docs/drafts: holds {sorted(held)}, expected each of {', '.join(DRAFTS)} for every task")
    counts = {(kind, task): _drafted(kind, task) for kind, task in held}
    per_call = {key: tokens / calls for key, (tokens, calls) in counts.items()}

    def cell(kind: str, task: str) -> str:
        tokens, calls = counts[kind, task]
        return f"{per_call[kind, task]:.2f} ({tokens:,} in {calls:,})"

    lines = [[said, *(cell(kind, task) for task in tasks)] for kind, said in DRAFTS.items()]
    more = [f"{per_call['own', task] / per_call['mixed', task] - 1:+.0%}" for task in tasks]
    return _table(["streams", *tasks], [*lines, ["the first over the second", *more]])


def _drafted(kind: str, task: str) -> tuple[int, int]:
    """Tokens, and the calls that they took."""
    facts = json.loads((ROOT / "docs" / "drafts" / f"{kind}_{task}.json").read_text(encoding="utf-8"))
    return facts["tokens"], facts["calls"]


TABLES: dict[str, Callable[[list[Adapter]], str]] = {
    "speed": speed,
    "runs": runs,
    "quality": quality,
    "sizes": sizes,
    "bases": bases,
    "curves": curves,
    "drafts": drafts,
}


# -- their cells ------------------------------------------------------------------------------------------------


def _timed(name: str, found: Rows) -> SpeedRow:
    """The one timed run of an adapter that the README speaks of: one with a compiled `generate`, if there is any."""
    rows = [
        row
        for row in found.speed
        if row.method == "streaming" and row.speedup is not None and row.batch_size == 1 and row.precision == "float32"
    ]
    compiled = {(row.command, row.device) for row in found.speed if row.method == COMPILED}
    rows = [row for row in rows if (row.command, row.device) in compiled] or rows
    if len(rows) != 1:
        raise ValueError(f"adapters/{name}: {len(rows)} timed runs of one prompt at a time in float32, expected one")
    return rows[0]


def _parameters(lora: LoraPart | None, absent: str) -> str:
    return absent if lora is None else f"{lora.parameters:,}"


def _per_pass(row: SpeedRow) -> str:
    return f"{row.tokens / row.calls:.2f}"


def _link(name: str) -> str:
    return f"[{name}](adapters/{name}/README.md)"


def _said(method: str) -> str:
    """The name of a plain method, as the documents use it."""
    return "plain decoding in ssft" if method == "plain" else f"`{method}`"


def _times(row: SpeedRow) -> str:
    if row.method == row.baseline:
        return "1"
    span = "" if row.speedup_interval is None else " ({:.2f} – {:.2f})".format(*row.speedup_interval)
    return f"{row.speedup:.2f} ×{span}"


def _estimate(value: float | None, interval: Interval | None) -> str:
    span = "" if interval is None else " ({:.1f} – {:.1f})".format(*interval)
    return "" if value is None else f"{value:.1f}{span}".replace("-", "−")


def _beside(row: QualityRow) -> list[str]:
    return [_estimate(row.twin, row.twin_interval), _estimate(row.difference, row.difference_interval)]


def _table(titles: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    return "".join(f"| {' | '.join(row)} |\n" for row in [titles, ["---"] * len(titles), *lines])


# -- the documents ----------------------------------------------------------------------------------------------


def written(document: str, tables: dict[str, str]) -> str:
    """The text of a document with every table in its place; raises `ValueError` for a name that is no table."""
    up = {"README.md": "adapters/", "adapters/README.md": ""}.get(document, "../adapters/")

    def filled(place: re.Match[str]) -> str:
        begin, name, end = place.groups()
        if name not in tables:
            raise ValueError(f"{document}: no table is named {name!r}; tables are {', '.join(tables)}")
        return begin + tables[name].replace("](adapters/", f"]({up}") + end

    return PLACE.sub(filled, (ROOT / document).read_text(encoding="utf-8"))


def main(argv: Sequence[str]) -> int:
    """Exit code: 1 if `--check` found a document that differs."""
    adapters = list(shipped())
    tables = {name: build(adapters) for name, build in TABLES.items()}
    differing = []
    for document in DOCUMENTS:
        text = written(document, tables)
        if text != (ROOT / document).read_text(encoding="utf-8"):
            differing.append(document)
            if "--check" not in argv:
                (ROOT / document).write_text(text, encoding="utf-8")
                print(f"written: {document}")
    if "--check" in argv and differing:
        print(f"differ from the results: {', '.join(differing)}; run python docs/tables.py", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
