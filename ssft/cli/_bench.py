"""What the subcommands of `ssft bench` share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from ssft.cli._options import print_table

COMPARE = "compare"
DIFFERENCE = "difference"
"""The hidden command behind `--compare`, which looks like an option of `ssft bench` itself."""
DIFFERENCE_FLAG = "--compare"
DIFFERENCE_HELP = (
    "Instead of measuring: two results of --output, or two report.json of `ssft bench tasks`, side by side. Exit code "
    "1 where plain's texts differ."
)
METHODS_HELP = (
    "Methods to compare, separated by commas, or all: every method that can run, and why the others cannot; plain "
    "always runs."
)
PEERS_HELP = "Folder with what other methods were trained to: DIR/ADAPTER's name/ with medusa, draft and twin."


class CompareByDefault(click.Group):
    """A group that runs `compare` when the first argument names no command: `ssft bench ADAPTER`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if args and args[0] not in self.commands and args[0] not in ctx.help_option_names:
            if DIFFERENCE_FLAG in args:
                args = [DIFFERENCE, *(arg for arg in args if arg != DIFFERENCE_FLAG)]
            else:
                args = [COMPARE, *args]
        return super().parse_args(ctx, args)

    def collect_usage_pieces(self, ctx: click.Context) -> list[str]:
        return ["[OPTIONS] ADAPTER | COMMAND [ARGS]... | --compare A.json B.json"]

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The options of the comparison, since that is what runs without a command."""
        compare = self.commands[COMPARE]
        options = [option for option in compare.params if isinstance(option, click.Option)]
        records = [record for option in options if (record := option.get_help_record(ctx)) is not None]
        records.append((f"{DIFFERENCE_FLAG} A.json B.json", DIFFERENCE_HELP))
        with formatter.section("Options of the comparison"):
            formatter.write_dl(records)
        self.format_commands(ctx, formatter)


def output_option() -> Any:
    """`--output`, parameter `output: Path | None`."""
    kind = click.Path(dir_okay=False, path_type=Path)
    return click.option("--output", metavar="FILE", type=kind, default=None, help="Write the result to FILE as JSON.")


def peers_option() -> Any:
    """`--peers`, parameter `peers: Path | None`; see `ssft.bench.peers.peers_folder`."""
    kind = click.Path(path_type=Path)
    return click.option("--peers", metavar="DIR", type=kind, default=None, help=PEERS_HELP)


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
