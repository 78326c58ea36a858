"""What the subcommands of `ssft bench` share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

COMPARE = "compare"


class CompareByDefault(click.Group):
    """A group that runs `compare` when the first argument names no command: `ssft bench ADAPTER`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if args and args[0] not in self.commands and args[0] not in ctx.help_option_names:
            args = [COMPARE, *args]
        return super().parse_args(ctx, args)

    def collect_usage_pieces(self, ctx: click.Context) -> list[str]:
        return ["[OPTIONS] ADAPTER | COMMAND [ARGS]..."]

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The options of the comparison, since that is what runs without a command."""
        compare = self.commands[COMPARE]
        options = [option for option in compare.params if isinstance(option, click.Option)]
        records = [record for option in options if (record := option.get_help_record(ctx)) is not None]
        with formatter.section("Options of the comparison"):
            formatter.write_dl(records)
        self.format_commands(ctx, formatter)


def output_option() -> Any:
    """`--output`, parameter `output: Path | None`."""
    kind = click.Path(dir_okay=False, path_type=Path)
    return click.option("--output", metavar="FILE", type=kind, default=None, help="Write the result to FILE as JSON.")
