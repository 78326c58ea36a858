"""`ssft bench --compare A.json B.json`: two results side by side."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import click

from ssft.cli._bench import COMPARE
from ssft.cli._options import json_option, print_json, print_table

RESULT = click.Path(exists=True, dir_okay=False, path_type=Path)


@click.command(COMPARE, hidden=True)
@click.argument("first", metavar="A.json", type=RESULT)
@click.argument("second", metavar="B.json", type=RESULT)
@json_option()
@click.pass_context
def compare_command(ctx: click.Context, first: Path, second: Path, as_json: bool) -> None:
    """Put two results of `ssft bench --output` or `ssft bench tasks` side by side, A before B.

    A speed-up has changed if its two intervals have no point in common; where baseline, prompts, precision or batch
    size differ, speed-ups are not compared. Exit 0: plain's texts are the same or were not comparable, which is told,
    1: they differ somewhere.
    """
    from ssft.bench.report.difference import compare_results, difference_table
    from ssft.results.reading import read_comparison

    found = compare_results(read_comparison(first), read_comparison(second))
    differ = any(found.texts.values())
    if as_json:
        print_json({"a": first.name, "b": second.name, "texts_differ": differ, **asdict(found)})
    else:
        print_table(difference_table(found))
    if differ:
        ctx.exit(1)
