"""Measurements of an adapter, condensed to what its card shows and kept in the bundle (`results.json`).

    format          1
    adapter_sha256  the bundle's `weights_sha256` at the time: results of other weights or settings are not shown
    about           license, datasets, data_license: what no file of the run says
    speed, quality  rows of the card's tables

`bench/card_rows.py` makes the rows from the files that `ssft verify`, `bench` and `eval` write; nobody types a number.
The file may come from a stranger: every value is checked, and the card escapes what it prints.
"""

import re
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated

from pydantic import Field, FiniteFloat

from ssft.bundle.folder import AdapterFiles
from ssft.bundle.format import RESULTS, Bundle
from ssft.errors import BundleError, ConfigError
from ssft.files import json_text, write_member
from ssft.schema import read

FORMAT = 1
MAX_BYTES = 2**20
OWN_ROWS = "validation rows"
"""`data` of a row that was measured on the rows which the training held back."""

_LICENSE = re.compile(r"[a-z0-9][a-z0-9.-]*", re.ASCII)
_DATASET = re.compile(r"[A-Za-z0-9][\w.-]*(/[\w.-]*\w)?", re.ASCII)

Text = Annotated[str, Field(max_length=4_000), "a text of at most 4,000 characters"]
Count = Annotated[int, Field(ge=0, lt=2**63), "a count"]
Number = Annotated[FiniteFloat, "a finite number"]


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
    speedup: Number | None = None
    speedup_low: Number | None = None
    speedup_high: Number | None = None
    reference: Text = ""
    identical: Count | None = None


@dataclass(frozen=True, kw_only=True)
class QualityRow(_Row):
    """One metric, in percent, with its 95 % interval; the twin is the same training without streams.

    difference: adapter minus twin on the same rows, paired. twin_unlike: what else is not the same in their trainings.
    """

    metric: Text
    value: Number
    low: Number
    high: Number
    twin: Number | None = None
    twin_low: Number | None = None
    twin_high: Number | None = None
    twin_command: Text = ""
    twin_unlike: Text = ""
    difference: Number | None = None
    difference_low: Number | None = None
    difference_high: Number | None = None


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
    speed: list[SpeedRow] = field(default_factory=list)
    quality: list[QualityRow] = field(default_factory=list)
    stale = False  # of one reading: no field, so that no file holds it

    def add(self, speed: list[SpeedRow], quality: list[QualityRow]) -> None:
        """Add the rows of one result; those of an earlier run of the same command go."""
        keys = {row.key for row in (*speed, *quality)}
        self.speed = [row for row in self.speed if row.key not in keys] + speed
        self.quality = [row for row in self.quality if row.key not in keys] + quality


def read_results(bundle: Bundle) -> Results:
    """The results in a bundle's folder, empty if there are none; raises `BundleError` for a damaged file."""
    found = stored_results(bundle.path) or Results(bundle.weights_sha256)
    if found.adapter_sha256 == bundle.weights_sha256:
        return found
    results = Results(bundle.weights_sha256, found.about)
    results.stale = bool(found.speed or found.quality)
    return results


def stored_results(folder: Path) -> Results | None:
    """The results in a folder, whatever weights they are of; raises `BundleError` for a damaged file."""
    files = AdapterFiles(folder)
    if not files.exists(RESULTS):
        return None
    files.read(RESULTS, MAX_BYTES, hashed=False)  # the limit here is narrower than that of any JSON
    value = files.json(RESULTS, hashed=False)
    remedy = "remove the file, which only the card needs, and give `ssft card` the result files again"
    if (found := value.pop("format", None)) != FORMAT:
        raise BundleError(f"{folder / RESULTS}: its format is {str(found)[:60]}, this ssft reads {FORMAT}; {remedy}")
    try:
        results: Results = read(Results, value, "")
        if missing := [part for part in ("about", "speed", "quality") if part not in value]:
            raise ValueError(f"{missing[0]} is missing")
        results.about.check()
    except ValueError as error:
        raise BundleError(f"{folder / RESULTS}: {error}; the file is damaged, {remedy}") from error
    return results


def results_text(results: Results) -> str:
    """`results` as the text of `results.json`; raises `ConfigError` for what `read_results` would refuse."""
    try:
        read(Results, asdict(results), "")
    except ValueError as error:
        raise ConfigError(f"a result cannot be kept in {RESULTS}: {error}; measure again") from error
    text = json_text({"format": FORMAT, **asdict(results)}) + "\n"
    if (size := len(text.encode())) > MAX_BYTES:
        raise ConfigError(
            f"{RESULTS} would have {size:,} bytes, at most {MAX_BYTES:,} are read; remove it from the adapter's folder "
            "and give the results that count"
        )
    return text


def write_results(bundle: Bundle, results: Results) -> None:
    """Write `results.json` into the bundle's folder, atomically; raises `ConfigError` where it cannot be."""
    write_member(bundle.path / RESULTS, results_text(results).encode())
