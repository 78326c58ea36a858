"""What the subcommands of `ssft bench` share."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ssft.cli._options import POSITIVE, Decorator, print_table, seed_option, together

if TYPE_CHECKING:
    from ssft.bench.suite import SuiteSettings
    from ssft.cli._adapted import Decoding
    from ssft.tables import Table

MEASURE = "measure"
COMPARE = "compare"
"""The hidden command behind `--compare`, which looks like an option of `ssft bench` itself."""
COMPARE_FLAG = "--compare"
COMPARE_HELP = (
    "Show two results side by side instead of measuring: two files of --output, or two report.json of `ssft bench "
    "tasks`. The command exits with 1 if plain decoding wrote different texts in the two."
)
METHODS_HELP = (
    "Names of the methods to compare, separated by commas; plain always runs. With all, every method runs that can, "
    "and the result says why the others cannot."
)
PEERS_HELP = (
    "Folder of what was trained for other methods. What belongs to an adapter lies in DIR/NAME, where NAME is the name "
    "of the adapter's folder: medusa, draft and twin."
)


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
        records = [record for option in self.commands[MEASURE].params if (record := option.get_help_record(ctx))]
        with formatter.section("Options of the comparison"):
            formatter.write_dl([*records, (f"{COMPARE_FLAG} A.json B.json", COMPARE_HELP)])
        self.format_commands(ctx, formatter)


def rounds_option(help: str, default: int = 3) -> Decorator:
    """`--rounds`, parameter `rounds: int`."""
    return click.option("--rounds", type=POSITIVE, default=default, help=help)


def _parsed_methods(ctx: click.Context, parameter: click.Parameter, names: str) -> list[str] | None:
    from ssft.bench.methods import parse_methods

    return parse_methods(names)


def measuring_options(methods: str, limit: Decorator) -> Decorator:
    """Options with the names of fields of `SuiteSettings`, and `--peers`; the value is the default of `--methods`."""
    return together(
        limit,
        rounds_option("How often every method runs over the prompts."),
        click.option("--methods", metavar="NAMES", default=methods, callback=_parsed_methods, help=METHODS_HELP),
        click.option("--peers", metavar="DIR", type=click.Path(path_type=Path), help=PEERS_HELP),
        seed_option(help="Seed of the order of the methods in each round, and of the bootstrap."),
    )


def suite_settings(decoding: Decoding, **options: Any) -> SuiteSettings:
    """The settings of a comparison from the options of a command."""
    from ssft.bench.suite import SuiteSettings

    return SuiteSettings(max_new_tokens=decoding.max_new_tokens, batch_size=decoding.batch_size, **options)


def exit_code(result: Any) -> int:
    """How a command ends: with 130 after an interruption, 1 where a method in float32 broke its promise, else 0."""
    from ssft.bench.report.findings import benches, broken

    if result.interrupted:
        return 130
    return int(any(bench.precision == "float32" and broken(bench) for bench in benches(result).values()))


def print_tables(heading: str, tables: list[Table]) -> None:
    """A line that says what was measured, and the tables of it."""
    from ssft.tables import terminal_text

    click.echo(terminal_text(heading))
    for table in tables:
        click.echo()
        print_table(table)


def print_comparison(result: Any) -> None:
    """A `BenchResult` or `SuiteResult`: what was measured, its tables, what follows from them."""
    from ssft.bench.report.findings import benches, find
    from ssft.bench.report.tables import heading, tables
    from ssft.tables import terminal_text

    print_tables(heading(result), tables(result))
    click.echo()
    for name, bench in benches(result).items():
        finding = find(bench)
        for line in (finding.headline, *finding.details):
            click.echo(terminal_text(f"{name}: {line}"))
