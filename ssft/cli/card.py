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
    help="`ssft eval --facts` of the same training without streams, on the same rows; repeatable. Where the "
    "adapter's own result is given too, the paired difference is shown.",
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
    What the card shows of them is kept in the folder (results.json), so later calls, `ssft push` among them, show it
    too; a result of other weights is an error, a later one of the same command takes the place of the earlier. Licence
    and datasets are kept as well; an empty text removes one. What stands in README.md below its last comment line
    stays.
    """
    from ssft.bench.card_rows import measured, with_twin
    from ssft.bundle.format import CARD, RESULTS
    from ssft.bundle.read import read_bundle
    from ssft.card.results import read_results, write_results
    from ssft.card.write import check_card, write_card

    bundle = read_bundle(adapter)
    bundle.release()
    check_card(bundle)
    kept = read_results(bundle)
    dropped, kept.stale = kept.stale, False
    before, datasets = kept.about, [name for name in dataset if name] if dataset else None
    given: dict[str, Any] = {"license": license_id, "datasets": datasets, "data_license": data_license}
    kept.about = replace(before, **{name: value for name, value in given.items() if value is not None})
    kept.about.check()
    for path in results:
        kept.add(*measured(path, bundle))
    for path in twin:
        kept.quality = with_twin(path, kept.quality, bundle, results)
    if kept.about != before or dropped or results or twin:
        write_results(bundle, kept)
    written = write_card(bundle)
    if dropped:
        click.echo(f"results of an earlier state of {adapter} were taken out of {RESULTS}; measure again", err=True)
    path = bundle.path / CARD
    if as_json:
        facts = {"speed": kept.speed, "quality": kept.quality, "about": kept.about}
        print_json({"path": path, "changed": written, **facts})
    else:
        ending = "" if written else "; it was up to date"
        click.echo(f"{path}: {len(kept.speed)} rows of speed, {len(kept.quality)} of quality{ending}")
