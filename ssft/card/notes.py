"""What is the user's in an adapter's folder: the text below the card, and what `results.json` says of licences.

Both outlive the card that is written again and the bundle that is trained again.
"""

from pathlib import Path

from ssft.bundle.folder import MAX_JSON, AdapterFiles
from ssft.bundle.format import CARD, RESULTS
from ssft.card.results import About, Results, results_text, stored_results
from ssft.errors import BundleError
from ssft.results.reading import Kept
from ssft.results.schema import EvalResult

KEPT = "<!-- ssft: what stands below this line is yours and stays when the card is written again. -->"
"""The card's last line of its own."""


def read_notes(folder: Path) -> tuple[bool, str]:
    """(whether ssft wrote the card of an adapter's folder, the user's text in it); (True, "") without a card.

    All of a card by another hand is the user's text. Raises `BundleError` for what is no UTF-8 text, since writing it
    again would change it.
    """
    files = AdapterFiles(folder)
    text = files.text(CARD) if files.exists(CARD) else ""
    _, kept, rest = text.partition(KEPT)
    if not kept:
        return (False, text) if text.strip() else (True, "")
    line, _, below = rest.partition("\n")
    # Spaces behind the mark, or no line after it, are no text of the user's; a word there is.
    return True, rest if line.strip() else below


def carried_over(target: Path, scores_of: str | None = None) -> dict[str, bytes]:
    """The files, name -> content, that a bundle in the place of the one in `target` begins with; none for a new folder.

    They are a card of the user's text alone, and results that tell licences and datasets but no measurement, since
    those were of other weights, except for scores of the text `scores_of` (`Bundle.text_sha256`), where the new bundle
    has the same. Raises `BundleError` for files that cannot be read.
    """
    files: dict[str, bytes] = {}
    if not target.is_dir():
        return files
    if notes := read_notes(target)[1]:
        files[CARD] = f"{KEPT}\n{notes}".encode()
        if len(files[CARD]) > MAX_JSON:
            raise BundleError(f"{target / CARD}: its text is too long to be kept, at most {MAX_JSON:,} bytes; cut it")
    if (stored := stored_results(target)) is not None:
        texts = (result for result in stored.results if isinstance(result, EvalResult))
        scores: list[Kept] = [result for result in texts if scores_of and result.text_sha256 == scores_of]
        if scores or stored.about != About():
            files[RESULTS] = results_text(Results(stored.about, scores)).encode()
    return files
