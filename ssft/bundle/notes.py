"""What the user wrote into an adapter's folder: the notes below the card, and what `results.json` says of licences.

It outlives the card that is written again (`card/write.py`) and the bundle that is trained again (`write.py`).
"""

import json
from dataclasses import asdict
from pathlib import Path

from ssft.bundle.folder import MAX_JSON, AdapterFiles
from ssft.errors import BundleError

KEPT = "<!-- ssft: what stands below this line is yours and stays when the card is written again. -->"
"""The card's last line of its own."""

_FIRST_CARDS = (
    "\nA LoRA adapter with speculative streams (Speculative Streaming, arXiv 2402.11131) for `",
    "\n`run.yaml` and `provenance.json` hold the settings, versions and the training history.",
)
"""Sentences of the cards of before there was `KEPT`; nobody else's text has both."""


def read_notes(folder: Path, name: str) -> tuple[bool, str]:
    """(whether ssft wrote the card `name` of an adapter's folder, the user's text in it); (True, "") without a card.

    Of a card by another hand the whole is the user's. Raises `BundleError` for what is no UTF-8 text, since writing
    it again would change it.
    """
    files = AdapterFiles(folder)
    if not files.exists(name):
        return True, ""
    text = files.text(name)
    _, kept, rest = text.partition(KEPT)
    if kept:
        line, _, below = rest.partition("\n")
        # Spaces behind the mark, or no line after it, are no text of the user's; a word there is.
        return True, rest if line.strip() else below
    if not text.strip() or all(sentence in text for sentence in _FIRST_CARDS):
        return True, ""
    return False, text


def carried_over(target: Path, card: str) -> dict[str, bytes]:
    """What a bundle that takes the place of `target` gets from it: name -> content of its card and its results.

    `card` is the new bundle's own card, below which the user's text goes. Of the results only licences and datasets
    are taken over, the measurements are of other weights. Raises `BundleError` for files that cannot be read.
    """
    from ssft.bundle.format import CARD, RESULTS  # which imports this module
    from ssft.bundle.results import FORMAT, About, read_about

    _, notes = read_notes(target, CARD)
    own, _, _ = card.partition(KEPT)
    files = {CARD: (f"{own}{KEPT}\n{notes}" if notes else card).encode()}
    about = read_about(target)
    if about != About():
        value = {"format": FORMAT, "adapter_sha256": "", "about": asdict(about), "speed": [], "quality": []}
        files[RESULTS] = (json.dumps(value, indent=1, ensure_ascii=False) + "\n").encode()
    too_large = next((name for name, data in files.items() if len(data) > MAX_JSON), None)
    if too_large is not None:
        raise BundleError(f"{target / too_large}: its text is too long to be kept, at most {MAX_JSON:,} bytes; cut it")
    return files
