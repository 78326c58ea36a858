"""The card of an adapter (README.md of its bundle), written from its files; numbers never come by hand."""

import json
import re
import shlex
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from ssft.base.load import hub_id
from ssft.base.named import EMBEDDED
from ssft.bundle.format import CARD, CURVE, RUN, Bundle
from ssft.bundle.shipped import shipped_adapters
from ssft.card.front_matter import datasets_of, front_matter
from ssft.card.notes import KEPT, read_notes
from ssft.card.picture import draw_curve, has_curve
from ssft.card.prompt_form import prompt_form
from ssft.card.results import Results, read_results
from ssft.card.rows import rows_of
from ssft.card.tables import category_table, commands, data_files, quality_table, speed_tables, training_table
from ssft.errors import BundleError, ConfigError
from ssft.files import write_member
from ssft.tables import markdown, markdown_text


def write_card(bundle: Bundle) -> bool:
    """Write `README.md` and, where there is a history to draw, `training.png` into the bundle's folder.

    What stands below `KEPT` in the card that is there stays. Returns whether anything changed.

    Raises:
        ConfigError: the adapter has no streams. BundleError: a file that the card is made from is damaged, or the card
            that is there is not ssft's.
    """
    changed = False
    for name, data in card_files(bundle).items():
        path = bundle.path / name
        same_size = path.is_file() and not path.is_symlink() and path.stat().st_size == len(data)
        if not same_size or path.read_bytes() != data:
            write_member(path, data)
            changed = True
    return changed


def card_files(bundle: Bundle, repo: str = "") -> dict[str, bytes]:
    """The card with the user's text below it, and its picture, by name; raises what `write_card` raises.

    repo: "owner/name" of the hub's repository that the card is read in; empty: it is read in the bundle's folder.
    """
    notes = check_card(bundle)
    files = {CARD: (card_text(bundle, repo=repo) + notes).encode()}
    if picture := draw_curve(bundle.provenance.get("history", [])):
        files[CURVE] = picture
    return files


def check_card(bundle: Bundle) -> str:
    """What stands below `KEPT` in the card that is there; raises what `write_card` would raise before it writes."""
    if bundle.stream_config is None:
        raise ConfigError(
            f"{bundle.path}: a plain peft LoRA without streams, which are what the card is about; peft "
            "writes the cards of its own adapters"
        )
    ours, notes = read_notes(bundle.path)
    if not ours:
        raise BundleError(
            f"{bundle.path / CARD}: not written by ssft, and would be lost; to keep it below the card, make this its "
            f"first line: {KEPT} - or move it away"
        )
    return notes


def card_text(bundle: Bundle, results: Results | None = None, repo: str = "") -> str:
    """The card as Markdown with the hub's front matter; `results` default to those in the folder, `repo` as above."""
    results = results or read_results(bundle)
    rows = rows_of(results, bundle)
    folder = bundle.path.resolve()
    shipped = next((name for name, place in shipped_adapters().items() if place.resolve() == folder), "")
    name, base = repo.rpartition("/")[2] or folder.name, bundle.base["id"]
    text = _TEMPLATES.get_template("card.md.j2").render(
        bundle=bundle,
        name=name,
        source=repo or shipped or str(bundle.path),
        shipped=bool(shipped and not repo),
        base=base,
        hub_base=hub_id(base),
        alias=EMBEDDED.get(base),
        front_matter=front_matter(bundle, results, name),
        results=results,
        commands=commands(rows),
        speed=speed_tables(rows),
        categories=category_table(rows),
        quality=quality_table(rows),
        training=training_table(bundle),
        curve=has_curve(bundle.provenance.get("history", [])),
        run_again=_run_again(bundle, repo, shipped or str(bundle.path)),
        data=data_files(bundle),
        form=prompt_form(bundle),
        datasets=datasets_of(bundle, results),
    )
    # A name that holds the mark would make the rest of the card the user's.
    return f"{text.replace(KEPT, '')}{KEPT}\n"


def _run_again(bundle: Bundle, repo: str, folder: str) -> list[str]:
    """The commands that train the adapter again; none without a run.yaml.

    A LoRA that was kept is in the bundle itself, which the run then begins from; of other starts the bundle knows only
    the hash.
    """
    if not (bundle.path / RUN).is_file() or not (bundle.path / RUN).stat().st_size:
        return []
    if repo:
        folder = f"adapters/{repo.rpartition('/')[2]}"
    words = ["ssft", "train", f"{folder}/{RUN}"]
    if hub_id(bundle.base["id"]) is None:
        words.append("base=folder/of/the/base")
    if "adapter" in bundle.provenance:
        words.append(f"adapter={folder if len(bundle.loras) > 1 else 'folder/of/the/start'}")
    words += [f"data.{part}={file['name']}" for part, file in data_files(bundle).items() if "sha256" in file]
    return [*([f"ssft pull {repo}"] if repo else []), shlex.join([*words, "--output", "outputs/again"])]


# -- text of strangers in Markdown: what is no `Markup` yet is escaped ------------------------------------------


def _code(text: str) -> Markup:
    """A span of code in one line."""
    text = " ".join(text.split())
    ticks = _fence(text, 1)
    space = " " if text.startswith("`") or text.endswith("`") else ""
    return Markup(f"{ticks}{space}{text}{space}{ticks}" if text else "")


def _fenced(text: str, language: str) -> Markup:
    """A fenced block that nothing in `text` closes."""
    fence = _fence(text, 3)
    return Markup(f"{fence}{language}\n{text.strip()}\n{fence}\n")


def _fence(text: str, least: int) -> str:
    """A run of backticks, `least` or more, that is longer than any in `text`."""
    return "`" * max([least, *(len(run) + 1 for run in re.findall("`+", text))])


def _finished(value: Any) -> str:
    return value if isinstance(value, Markup) else markdown_text(str(value))


_TEMPLATES = Environment(
    loader=FileSystemLoader(Path(__file__).parent),
    undefined=StrictUndefined,
    finalize=_finished,
    trim_blocks=True,
    lstrip_blocks=True,
    keep_trailing_newline=True,
)
_TEMPLATES.filters.update(
    code=_code,
    fenced=_fenced,
    raw=Markup,
    table=lambda table: Markup(markdown(table)),
    shell=lambda text: Markup(shlex.quote(text)),
    python=lambda text: Markup(json.dumps(text, ensure_ascii=False)),
)
