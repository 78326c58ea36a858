"""Write an adapter's card (README.md) from its own files and from results of verify, bench and eval."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from ssft.cli._options import json_option, print_json

_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


@click.command()
@click.argument("adapter")
@click.argument("results", nargs=-1, metavar="[RESULT.json]...", type=_FILE)
@click.option(
    "--twin",
    metavar="RESULT.json",
    type=_FILE,
    multiple=True,
    help="`ssft eval --facts` of the same training without streams, on the same rows as the adapter's own; "
    "repeatable. The card shows both, and their paired difference.",
)
@click.option("--license", "license_id", metavar="ID", default=None, help="Licence of the adapter, as the hub's id.")
@click.option("--dataset", metavar="ID", multiple=True, help="Dataset it was trained on, owner/name; repeatable.")
@click.option("--data-license", metavar="TEXT", default=None, help="Licence of the data, as a note in the card.")
@json_option()
def command(
    adapter: str,
    results: tuple[Path, ...],
    twin: tuple[Path, ...],
    license_id: str | None,
    dataset: tuple[str, ...],
    data_license: str | None,
    as_json: bool,
) -> None:
    """Write README.md into the folder ADAPTER, with the hub's front matter.

    The results are files of `ssft verify --output`, `ssft bench --output`, `ssft bench tasks` and `ssft eval --facts`.
    They are kept in the folder (results.json), without plain's token ids, so later calls, `ssft push` among them, show
    them too; a result of other weights is an error, a later one of the same command takes the place of the earlier.
    Licence and datasets are kept as well; an empty text removes one. What stands in README.md below its last comment
    line stays.
    """
    from ssft.bench.quality import put_twin_beside
    from ssft.bundle.format import CARD, RESULTS
    from ssft.bundle.read import read_bundle
    from ssft.card.results import measured, read_results, write_results
    from ssft.card.rows import rows_of
    from ssft.card.write import check_card, write_card

    bundle = read_bundle(adapter)
    bundle.release()
    check_card(bundle)
    kept = read_results(bundle)
    dropped, kept.stale = kept.stale, ""
    before, datasets = kept.about, [name for name in dataset if name] if dataset else None
    given: dict[str, Any] = {"license": license_id, "datasets": datasets, "data_license": data_license}
    kept.about = replace(before, **{name: value for name, value in given.items() if value is not None})
    kept.about.check()
    for path in results:
        kept.add(measured(path, bundle))
    for path in twin:
        put_twin_beside(path, kept.results, bundle)
    if kept.about != before or dropped or results or twin:
        write_results(bundle, kept)
    written = write_card(bundle)
    if dropped:
        again = "measure again with `ssft verify`, `ssft bench` and `ssft eval`"
        click.echo(f"{adapter}: results {dropped} were taken out of {RESULTS}; {again}", err=True)
    path, rows = bundle.path / CARD, rows_of(kept, bundle)
    if as_json:
        facts = {"speed": rows.speed, "quality": rows.quality, "about": kept.about}
        print_json({"path": path, "changed": written, **facts})
    else:
        ending = "" if written else "; it was up to date"
        click.echo(f"{path}: {len(rows.speed)} rows of speed, {len(rows.quality)} of quality{ending}")
