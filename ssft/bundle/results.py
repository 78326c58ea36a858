"""Measurements of an adapter, condensed to what its card shows and kept in the bundle (`results.json`).

    format          1
    adapter_sha256  the bundle's `weights_sha256` at the time: results of other weights or settings are not shown
    about           license, datasets, data_license: what no file of the run says
    speed, quality  rows of the card's tables

`measured.py` makes the rows from the files that `ssft verify`, `bench` and `eval` write; nobody types a number. The
file may come from a stranger: every value is checked, and the card escapes what it prints.
"""

import json
import re
import types
import typing
from dataclasses import MISSING, asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from ssft.bundle.folder import AdapterFiles, finite
from ssft.bundle.format import RESULTS, Bundle
from ssft.errors import BundleError, ConfigError
from ssft.files import write_bytes

FORMAT = 1
MAX_BYTES = 2**20
MAX_ROWS = 500
MAX_TEXT = 4_000
"""Characters of one string."""

OWN_ROWS = "validation rows"
"""`data` of a row that was measured on the rows which the training held back."""

_LICENSE = re.compile(r"[a-z0-9][a-z0-9.-]*", re.ASCII)
_DATASET = re.compile(r"[A-Za-z0-9][\w.-]*(/[\w.-]*\w)?", re.ASCII)


@dataclass(frozen=True, kw_only=True)
class _Row:
    """What every measurement tells of itself.

    source: the command's name (verify, bench, eval). data: the file's name, `OWN_ROWS`, or "" if it cannot be told.
    data_sha256: of the file, "" if there was none or it cannot be told. tree: in words, "" for a method that drafts
    none. command: the whole command line, which names files without their folders.
    """

    source: str
    command: str
    device: str
    precision: str
    data: str
    data_sha256: str = ""
    rows: int
    batch_size: int
    max_new_tokens: int
    tree: str

    @property
    def key(self) -> tuple[str, ...]:
        """A later measurement with the same key takes the place of an earlier one; its last part is the data's hash,
        since a command names two files of one name alike."""
        return self.source, self.device, self.precision, self.command, self.data_sha256


@dataclass(frozen=True, kw_only=True)
class SpeedRow(_Row):
    """One method: tokens and calls of one round; speed-up against `baseline` with its interval, in times; `identical`
    of `rows` texts equal to `reference`'s. None: not measured. rounds: 0 where nothing was timed."""

    method: str
    tokens: int
    calls: int
    rounds: int = 0
    baseline: str = ""
    speedup: float | None = None
    speedup_low: float | None = None
    speedup_high: float | None = None
    reference: str = ""
    identical: int | None = None


@dataclass(frozen=True, kw_only=True)
class QualityRow(_Row):
    """One metric, in percent, with its 95 % interval; the twin is the same training without streams.

    difference: adapter minus twin on the same rows, paired. twin_unlike: what else is not the same in their trainings.
    """

    metric: str
    value: float
    low: float
    high: float
    twin: float | None = None
    twin_low: float | None = None
    twin_high: float | None = None
    twin_command: str = ""
    twin_unlike: str = ""
    difference: float | None = None
    difference_low: float | None = None
    difference_high: float | None = None


@dataclass
class About:
    """What the user says of an adapter: licences (the adapter's as an id of the hub) and the hub's ids of the data."""

    license: str = ""
    datasets: list[str] = field(default_factory=list)
    data_license: str = ""

    def check(self) -> None:
        """Raise `ConfigError` for what the hub would refuse."""
        if self.license and not _LICENSE.fullmatch(self.license):
            raise ConfigError(
                f"license {self.license!r}: expected an id of https://huggingface.co/docs/hub/repositories-licenses, "
                "such as cc-by-4.0"
            )
        for dataset in self.datasets:
            if not _DATASET.fullmatch(dataset):
                raise ConfigError(f"dataset {dataset!r}: expected an id of the hub, such as owner/name")


@dataclass
class Results:
    """What `results.json` holds. `stale`: the file was of another state of the adapter, so its rows were left out."""

    adapter_sha256: str
    about: About = field(default_factory=About)
    speed: list[SpeedRow] = field(default_factory=list)
    quality: list[QualityRow] = field(default_factory=list)
    stale: bool = False

    def add(self, speed: list[SpeedRow], quality: list[QualityRow]) -> None:
        """Add the rows of one result; those of an earlier run of the same command go."""
        keys = {row.key for row in (*speed, *quality)}
        keys |= {(*key[:-1], "") for key in keys}  # rows of before the hash was kept
        self.speed = [row for row in self.speed if row.key not in keys] + speed
        self.quality = [row for row in self.quality if row.key not in keys] + quality
        if len(self.speed) + len(self.quality) > MAX_ROWS:
            raise ConfigError(
                f"the card would hold {len(self.speed) + len(self.quality)} measurements, at most {MAX_ROWS} fit; "
                f"remove {RESULTS} from the adapter's folder and give the results that count"
            )


def read_results(bundle: Bundle) -> Results:
    """The results in a bundle's folder, empty if there are none; raises `BundleError` for a damaged file."""
    results = _read(bundle.path)
    if results is None:
        return Results(bundle.weights_sha256)
    if results.adapter_sha256 != bundle.weights_sha256:
        return Results(bundle.weights_sha256, results.about, stale=bool(results.speed or results.quality))
    return results


def read_about(folder: Path) -> About:
    """What the results in an adapter's folder say of licences and datasets; raises `BundleError` for a damaged file."""
    results = _read(folder)
    return About() if results is None else results.about


def _read(folder: Path) -> Results | None:
    files = AdapterFiles(folder)
    if not files.exists(RESULTS):
        return None
    path = folder / RESULTS
    files.read(RESULTS, MAX_BYTES, hashed=False)  # the limit here is narrower than that of any JSON
    value = files.json(RESULTS, hashed=False)
    if value.get("format") != FORMAT:
        raise BundleError(
            f"{path}: format is {value.get('format')!r}, this ssft reads {FORMAT}; read it with a newer ssft, or "
            "remove the file, which only the card needs"
        )
    try:
        return _parse(value)
    except ValueError as error:
        raise BundleError(
            f"{path}: {error}; the file is damaged. Remove it, which only the card needs, and give `ssft card` the "
            "result files again"
        ) from error


def write_results(bundle: Bundle, results: Results) -> None:
    """Write `results.json` into the bundle's folder, atomically; raises `ConfigError` for what `read_results` would
    refuse."""
    value = {"format": FORMAT, **asdict(results)}
    del value["stale"]
    try:
        _parse(value)
    except ValueError as error:
        raise ConfigError(f"a result cannot be kept in {bundle.path / RESULTS}: {error}; measure again") from error
    data = (json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode()
    if len(data) > MAX_BYTES:
        raise ConfigError(
            f"{bundle.path / RESULTS} would have {len(data):,} bytes, at most {MAX_BYTES:,} are read; remove it from "
            "the adapter's folder and give the results that count"
        )
    try:
        write_bytes(bundle.path / RESULTS, data)
    except OSError as error:
        raise BundleError(f"{bundle.path / RESULTS}: cannot be written ({error.strerror or error})") from error


def _parse(value: dict[str, Any]) -> Results:
    """The content of `results.json`, checked; raises `ValueError` naming the place."""
    about = _object(About, value.get("about"), "about")
    about.check()
    speed = _rows(SpeedRow, value.get("speed"), "speed")
    quality = _rows(QualityRow, value.get("quality"), "quality")
    return Results(_typed(value, "adapter_sha256", str), about, speed, quality)


def _rows(kind: Any, value: Any, where: str) -> list[Any]:
    if not isinstance(value, list) or len(value) > MAX_ROWS:
        raise ValueError(f"{where} is no list of at most {MAX_ROWS} rows")
    return [_object(kind, item, f"{where}[{index}]") for index, item in enumerate(value)]


def _object(kind: Any, value: Any, where: str) -> Any:
    """`value` as the flat dataclass `kind`; raises `ValueError` naming the place."""
    if not isinstance(value, dict):
        raise ValueError(f"{where} is no object")
    hints = typing.get_type_hints(kind)
    if unknown := sorted(set(value) - set(hints)):
        raise ValueError(f"{where}.{unknown[0]} is unknown to this version of ssft")
    needed = [f.name for f in fields(kind) if f.default is MISSING and f.default_factory is MISSING]
    if missing := [name for name in needed if name not in value]:
        raise ValueError(f"{where}.{missing[0]} is missing")
    return kind(**{key: _typed(value, key, hints[key], where) for key in value})


def _typed(value: dict[str, Any], key: str, kind: Any, where: str = "") -> Any:
    """`value[key]` if it is a `kind`: str, int, float, `list[str]`, or one of these or None."""
    item: Any = value.get(key)
    place = f"{where}.{key}" if where else key
    if isinstance(kind, types.UnionType):
        if item is None:
            return None
        kind = typing.get_args(kind)[0]
    if kind is float and type(item) in (int, float):
        item = finite(item)
        if item is None:
            raise ValueError(f"{place} is not finite")
    if kind == list[str]:
        if type(item) is not list or not all(type(text) is str and len(text) <= MAX_TEXT for text in item):
            raise ValueError(f"{place} is no list of strings")
    elif type(item) is not kind:
        raise ValueError(f"{place}={str(item)[:60]!r}, expected {kind.__name__}")
    elif kind is str and len(item) > MAX_TEXT:
        raise ValueError(f"{place} has {len(item):,} characters, at most {MAX_TEXT:,} are allowed")
    elif kind is int and not 0 <= item < 2**63:
        raise ValueError(f"{place}={str(item)[:60]} is no count")
    return item
