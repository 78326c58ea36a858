"""Measurements that lie with an adapter (`results.json`), as the commands wrote them; nobody types a number.

    format    2
    about     license, datasets, data_license: what no file of the run says
    results   what `ssft verify`, `bench` and `eval` wrote, and tasks of `ssft bench tasks`, without plain's token ids

`card/rows.py` makes the rows of the card's tables from them. The file may come from a stranger: every value is checked,
and the card escapes what it prints.
"""

import re
from dataclasses import asdict, dataclass, field
from pathlib import Path

from ssft.bundle.folder import AdapterFiles
from ssft.bundle.format import RESULTS, Bundle
from ssft.errors import BundleError, ConfigError
from ssft.files import json_text, write_member
from ssft.results.reading import Kept, read_kept, read_result, run_of
from ssft.results.schema import BenchResult, EvalResult, SuiteResult, Text
from ssft.schema import read

FORMAT = 2
MAX_BYTES = 4 * 2**20

_LICENSE = re.compile(r"[a-z0-9][a-z0-9.-]*", re.ASCII)
_DATASET = re.compile(r"[A-Za-z0-9][\w.-]*(/[\w.-]*\w)?", re.ASCII)


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
    """What `results.json` holds. `stale`: of what kind the results are that it held and that were left out."""

    about: About = field(default_factory=About)
    results: list[Kept] = field(default_factory=list)
    stale = ""  # of one reading: no field, so that no file holds it

    def add(self, found: list[Kept]) -> None:
        """Add results; those of an earlier run of the same command go."""
        keys = set(map(_key, found))
        self.results = [result for result in self.results if _key(result) not in keys] + found


def _key(result: Kept) -> tuple[object, ...]:
    """A later result with the same key takes the place of an earlier one; its last part is the data's hash, since a
    command names two files of one name alike."""
    run = run_of(result)
    return type(run), run.device, run.precision, run.command, (run.data or {}).get("sha256")


def is_of(result: Kept, bundle: Bundle) -> bool:
    """Whether a result tells of the bundle: measured with these weights and settings or, where texts were scored, with
    the same LoRA, which alone decides the text."""
    run = run_of(result)
    scored = isinstance(run, EvalResult) and run.text_sha256 == bundle.text_sha256
    return scored or run.adapter_sha256 == bundle.weights_sha256


def measured(path: Path, bundle: Bundle) -> list[Kept]:
    """What a result file says of an adapter.

    Raises:
        ConfigError: the file is missing, cut off, of no known kind, or of another adapter.
    """
    result = read_result(path)
    found: list[Kept] = list(result.tasks.values()) if isinstance(result, SuiteResult) else [result]
    own = [entry for entry in found if is_of(entry, bundle)]
    if not own:
        others = [f"{run.adapter} ({str(run.adapter_sha256 or 'no hash')[:12]})" for run in map(run_of, found)]
        raise ConfigError(
            f"{path}: measured with {', '.join(others) or 'nothing'}, not with {bundle.path} as it is now "
            f"({bundle.weights_sha256[:12]}); its weights or settings are others, measure again"
        )
    for run in map(run_of, own):
        run.command = run.command or (result.command if isinstance(result, SuiteResult) else "")
        if not run.command:
            raise ConfigError(f"{path}: does not say which command made it; measure again with this ssft")
        if isinstance(run, BenchResult):
            run.outputs = []  # no reader of an adapter needs to download them
    return own


def read_results(bundle: Bundle) -> Results:
    """The results in a bundle's folder, empty if there are none; raises `BundleError` for a damaged file."""
    found = stored_results(bundle.path) or Results()
    own = [result for result in found.results if is_of(result, bundle)]
    if len(own) < len(found.results):
        found.results, found.stale = own, "of an earlier state of this adapter's weights or settings"
    return found


def stored_results(folder: Path) -> Results | None:
    """The results in a folder, whatever weights they are of; raises `BundleError` for a damaged file.

    Of format 1, whose rows hold less than a result, what the user said is read, and that there was more.
    """
    files = AdapterFiles(folder)
    if not files.exists(RESULTS):
        return None
    files.read(RESULTS, MAX_BYTES, hashed=False)  # the limit here is narrower than that of any JSON
    value = files.json(RESULTS, hashed=False)
    remedy = "remove the file, which only the card needs, and give `ssft card` the result files again"
    if (found := value.get("format")) not in (1, FORMAT):
        raise BundleError(f"{folder / RESULTS}: its format is {str(found)[:60]}, this ssft reads {FORMAT}; {remedy}")
    try:
        entries = value.get("results", []) if found == FORMAT else []
        if not isinstance(entries, list):
            raise ValueError("results is no list")
        results = Results(
            read(About, value.get("about", {}), "about"),
            [read_kept(entry, f"results[{number}]") for number, entry in enumerate(entries)],
        )
        results.about.check()
    except (ValueError, RecursionError) as error:
        raise BundleError(f"{folder / RESULTS}: {error}; the file is damaged, {remedy}") from error
    if value.get("speed") or value.get("quality"):
        results.stale = "in the format of an earlier ssft"
    return results


def results_text(results: Results) -> str:
    """`results` as the text of `results.json`; raises `ConfigError` for more than `read_results` reads."""
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
