"""Measurements of an adapter, condensed to what its card shows and kept in the bundle (`results.json`).

    format          1
    adapter_sha256  the bundle's `weights_sha256` at the time: results of other weights or settings are not shown
    about           license, datasets, data_license: what no file of the run says
    speed, quality  rows of the card's tables

`bench/card_rows.py` makes the rows from the files that `ssft verify`, `bench` and `eval` write; nobody types a number.
The file may come from a stranger: every value is checked, and the card escapes what it prints.
"""

import json
import re
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any

from pydantic import ConfigDict, Field, FiniteFloat, TypeAdapter, ValidationError

from ssft.bundle.folder import AdapterFiles
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

Text = Annotated[str, Field(max_length=MAX_TEXT)]
Count = Annotated[int, Field(ge=0, lt=2**63)]


@dataclass(frozen=True, kw_only=True)
class _Row:
    """What every measurement tells of itself.

    source: the command's name (verify, bench, eval). data: the file's name, `OWN_ROWS`, or "" if it cannot be told.
    data_sha256: of the file, "" if there was none or it cannot be told. tree: in words, "" for a method that drafts
    none. command: the whole command line, which names files without their folders.
    """

    source: Text
    command: Text
    device: Text
    precision: Text
    data: Text
    data_sha256: Text = ""
    rows: Count
    batch_size: Count
    max_new_tokens: Count
    tree: Text

    @property
    def key(self) -> tuple[str, ...]:
        """A later measurement with the same key takes the place of an earlier one; its last part is the data's hash,
        since a command names two files of one name alike."""
        return self.source, self.device, self.precision, self.command, self.data_sha256


@dataclass(frozen=True, kw_only=True)
class SpeedRow(_Row):
    """One method: tokens and calls of one round; speed-up against `baseline` with its interval, in times; `identical`
    of `rows` texts equal to `reference`'s. None: not measured. rounds: 0 where nothing was timed."""

    method: Text
    tokens: Count
    calls: Count
    rounds: Count = 0
    baseline: Text = ""
    speedup: FiniteFloat | None = None
    speedup_low: FiniteFloat | None = None
    speedup_high: FiniteFloat | None = None
    reference: Text = ""
    identical: Count | None = None


@dataclass(frozen=True, kw_only=True)
class QualityRow(_Row):
    """One metric, in percent, with its 95 % interval; the twin is the same training without streams.

    difference: adapter minus twin on the same rows, paired. twin_unlike: what else is not the same in their trainings.
    """

    metric: Text
    value: FiniteFloat
    low: FiniteFloat
    high: FiniteFloat
    twin: FiniteFloat | None = None
    twin_low: FiniteFloat | None = None
    twin_high: FiniteFloat | None = None
    twin_command: Text = ""
    twin_unlike: Text = ""
    difference: FiniteFloat | None = None
    difference_low: FiniteFloat | None = None
    difference_high: FiniteFloat | None = None


@dataclass
class About:
    """What the user says of an adapter: licences (the adapter's as an id of the hub) and the hub's ids of the data."""

    license: Text = ""
    datasets: list[Text] = field(default_factory=list)
    data_license: Text = ""

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

    adapter_sha256: Text
    about: About = field(default_factory=About)
    speed: Annotated[list[SpeedRow], Field(max_length=MAX_ROWS)] = field(default_factory=list)
    quality: Annotated[list[QualityRow], Field(max_length=MAX_ROWS)] = field(default_factory=list)
    stale = False  # of one reading: no field, so that no file holds it

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


# A dataclass alone takes no settings; within a union it does, and all dataclasses in it.
_RESULTS: Any = TypeAdapter(Results | None, config=ConfigDict(strict=True, extra="forbid"))


def read_results(bundle: Bundle) -> Results:
    """The results in a bundle's folder, empty if there are none; raises `BundleError` for a damaged file."""
    results = _read(bundle.path)
    if results is None:
        return Results(bundle.weights_sha256)
    if results.adapter_sha256 != bundle.weights_sha256:
        about, stale = results.about, bool(results.speed or results.quality)
        results = Results(bundle.weights_sha256, about)
        results.stale = stale
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
    if (found := value.pop("format", None)) != FORMAT:
        raise BundleError(
            f"{path}: its format is {str(found)[:60]}, this ssft reads {FORMAT}; read it with a newer ssft, or remove "
            "the file, which only the card needs"
        )
    try:
        return _checked(value)
    except ValueError as error:
        raise BundleError(
            f"{path}: {error}; the file is damaged. Remove it, which only the card needs, and give `ssft card` the "
            "result files again"
        ) from error


def results_text(results: Results) -> str:
    """`results` as the text of `results.json`."""
    return json.dumps({"format": FORMAT, **asdict(results)}, indent=1, ensure_ascii=False) + "\n"


def write_results(bundle: Bundle, results: Results) -> None:
    """Write `results.json` into the bundle's folder, atomically; raises `ConfigError` for what `read_results` would
    refuse."""
    path = bundle.path / RESULTS
    try:
        _checked(asdict(results))
    except ValueError as error:
        raise ConfigError(f"a result cannot be kept in {path}: {error}; measure again") from error
    data = results_text(results).encode()
    if len(data) > MAX_BYTES:
        raise ConfigError(
            f"{path} would have {len(data):,} bytes, at most {MAX_BYTES:,} are read; remove it from the adapter's "
            "folder and give the results that count"
        )
    try:
        write_bytes(path, data)
    except OSError as error:
        raise BundleError(f"{path}: cannot be written ({error.strerror or error})") from error


def _checked(value: dict[str, Any]) -> Results:
    """The content of `results.json`, checked; raises `ValueError` naming the first place that does not fit."""
    try:
        results: Results = _RESULTS.validate_json(json.dumps(value))
    except ValidationError as error:
        raise ValueError(first_fault(error)) from None
    if missing := [part for part in ("about", "speed", "quality") if part not in value]:
        raise ValueError(f"{missing[0]} is missing")
    results.about.check()
    return results


def first_fault(error: ValidationError) -> str:
    """Place and fault of the first value that does not fit, as `speed[0].calls: Input should be ...`."""
    fault = error.errors(include_url=False)[0]
    place = "".join(f"[{part}]" if isinstance(part, int) else f".{part[:60]}" for part in fault["loc"])[1:]
    given = str(fault["input"])[:60]
    return f"{place} is missing" if fault["type"] == "missing" else f"{place}={given}: {fault['msg']}"
