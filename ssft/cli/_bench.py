"""What the subcommands of `ssft bench` share."""

from __future__ import annotations

import functools
from dataclasses import fields
from pathlib import Path
from typing import Any

import click

from ssft.cli._options import POSITIVE, Decorator, batch_size_option, max_new_tokens_option, print_table, seed_option

MEASURE = "measure"
COMPARE = "compare"
"""The hidden command behind `--compare`, which looks like an option of `ssft bench` itself."""
COMPARE_FLAG = "--compare"
COMPARE_HELP = (
    "Instead of measuring: two results of --output, or two report.json of `ssft bench tasks`, side by side. Exit code "
    "1 where plain's texts differ."
)
METHODS_HELP = (
    "Methods to compare, separated by commas, or all: every method that can run, and why the others cannot; plain "
    "always runs."
)
PEERS_HELP = "Folder with what other methods were trained to: DIR/ADAPTER's name/ with medusa, draft and twin."


class MeasureByDefault(click.Group):
    """A group that runs `measure` when the first argument names no command: `ssft bench ADAPTER`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if args and args[0] not in self.commands and args[0] not in ctx.help_option_names:
            if COMPARE_FLAG in args:
                args = [COMPARE, *(arg for arg in args if arg != COMPARE_FLAG)]
            else:
                args = [MEASURE, *args]
        return super().parse_args(ctx, args)

    def collect_usage_pieces(self, ctx: click.Context) -> list[str]:
        return ["[OPTIONS] ADAPTER | COMMAND [ARGS]... | --compare A.json B.json"]

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The options of the comparison, since that is what runs without a command."""
        measure = self.commands[MEASURE]
        options = [option for option in measure.params if isinstance(option, click.Option)]
        records = [record for option in options if (record := option.get_help_record(ctx)) is not None]
        records.append((f"{COMPARE_FLAG} A.json B.json", COMPARE_HELP))
        with formatter.section("Options of the comparison"):
            formatter.write_dl(records)
        self.format_commands(ctx, formatter)


def rounds_option(help: str, default: int = 3) -> Decorator:
    """`--rounds`, parameter `rounds: int`."""
    return click.option("--rounds", type=POSITIVE, default=default, show_default=True, help=help)


def measuring_options(methods: str, limit: Decorator, max_new_tokens: int) -> Decorator:
    """`--limit --max-new-tokens --batch-size --rounds --seed --methods` and what else `SuiteSettings` has, as the one
    parameter `settings: SuiteSettings`, and `--peers`; the values are defaults."""

    def decorate(function: Any) -> Any:
        @functools.wraps(function)
        def collected(*args: Any, methods: str, **options: Any) -> Any:
            from ssft.bench.methods import parse_methods
            from ssft.bench.suite import SuiteSettings

            names = parse_methods(methods)
            given = {f.name: options.pop(f.name) for f in fields(SuiteSettings) if f.name in options}
            return function(*args, settings=SuiteSettings(**given, methods=names), **options)

        folder = click.Path(path_type=Path)
        for option in (
            seed_option(help="Order of the methods in each round, and the bootstrap."),
            click.option("--peers", metavar="DIR", type=folder, default=None, help=PEERS_HELP),
            click.option("--methods", metavar="NAMES", default=methods, show_default=True, help=METHODS_HELP),
            rounds_option("Times that every method runs."),
            batch_size_option(),
            max_new_tokens_option(default=max_new_tokens),
            limit,
        ):
            collected = option(collected)
        return collected

    return decorate


def exit_code(result: Any) -> int:
    """Of a finished command: 130 after an interruption, 1 where a method in float32 broke its promise, else 0."""
    from ssft.bench.report.findings import benches, broken

    if result.interrupted:
        return 130
    return int(any(bench.precision == "float32" and broken(bench) for bench in benches(result).values()))


def print_tables(result: Any) -> None:
    """A `BenchResult` or `SuiteResult`: what was measured, its tables, what follows from them."""
    from ssft.bench.report.findings import benches, find
    from ssft.bench.report.tables import heading, tables
    from ssft.tables import terminal_text

    click.echo(terminal_text(heading(result)))
    for table in tables(result):
        click.echo()
        print_table(table)
    click.echo()
    for name, bench in benches(result).items():
        finding = find(bench)
        for line in (finding.headline, *finding.details):
            click.echo(terminal_text(f"{name}: {line}"))
