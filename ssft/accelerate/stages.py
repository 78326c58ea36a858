"""Stages of one work, each done once: what is complete and was made of the same inputs is not made again."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ssft.errors import ConfigError
from ssft.files import parse_json, to_json, write_json
from ssft.tables import duration

FILE = "stages.json"


class Stages:
    """The stages in one folder, with `stages.json`, which tells of each: its `inputs`, the `seconds` that it took until
    now, what it `found` and the hash of its `output` once it is complete.

    say: tells people what a stage does, what it found and where its output lies.
    """

    def __init__(self, folder: Path, say: Callable[[str], object]) -> None:
        """Raises `ConfigError` if the folder holds something else, or a damaged `stages.json`."""
        self.folder, self.say = folder, say
        self.path = folder / FILE
        self.told: dict[str, dict[str, Any]] = {}
        if self.path.is_file():
            try:
                found = parse_json(self.path.read_text(encoding="utf-8"))
            except (OSError, ValueError) as error:
                raise ConfigError(f"{self.path} cannot be read ({error}); remove it to do all stages again") from error
            if not isinstance(found, dict) or not all(isinstance(entry, dict) for entry in found.values()):
                raise ConfigError(f"{self.path} does not tell of stages; remove it to do all stages again")
            self.told = found
        elif folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise ConfigError(f"{folder} exists and is not what `ssft accelerate` began; choose another --output")

    def run(
        self,
        name: str,
        purpose: str,
        output: Path,
        inputs: dict[str, Any],
        hash_of: Callable[[], str | None],
        work: Callable[[dict[str, Any]], str],
    ) -> None:
        """Do a stage, unless its output is there as it was left and its inputs are the same.

        Args:
            hash_of: of the output; None if there is none.
            work: does the stage and says what it found; it gets what is told of the stage, in which it may keep what an
                interrupted stage goes on with. `seconds` there is what earlier, interrupted calls took.
        """
        inputs = to_json(inputs)
        entry = self.told.get(name, {})
        same = entry.get("inputs") == inputs
        if same and "found" in entry and hash_of() == entry.get("output"):
            self.say(f"{name}: done before ({output})\n  {entry['found']}")
            return
        if not same or "found" in entry:
            entry = {"inputs": inputs, "seconds": 0.0}
        self.told[name] = entry
        self.save()
        self.say(f"{name}: {purpose}")
        begin, before = time.monotonic(), float(entry["seconds"])
        try:
            found = work(entry)
            entry |= {"found": found, "output": hash_of()}
        finally:
            entry["seconds"] = round(before + time.monotonic() - begin, 1)
            self.save()
        self.say(f"  {found}\n  {output}, {duration(entry['seconds'])}")

    def save(self) -> None:
        """Keep what is told of the stages, so that a call that is killed can be gone on with."""
        write_json(self.path, self.told)
