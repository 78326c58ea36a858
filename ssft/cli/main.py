"""The command `ssft`: finds its commands among the files beside this one and turns errors into exit codes.

A file `foo_bar.py` here is the command `foo-bar`: it holds a click command named `command`, and the
first line of its docstring is the summary in `ssft --help`. Files that start with `_` are helpers.
The listing reads docstrings without importing, so that `ssft --help` does not wait for torch.

Exit codes: 0 done, 1 a check failed (a command says so with `ctx.exit(1)`), 2 wrong input, 130 interrupted.
"""

from __future__ import annotations

import ast
import importlib
import os
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import click

from ssft._version import __version__
from ssft.errors import SSFTError, nearest

FOLDER = Path(__file__).parent


def discover() -> dict[str, Path]:
    """Command name -> file, in alphabetical order."""
    files = sorted(path for path in FOLDER.glob("*.py") if not path.stem.startswith("_") and path.stem != "main")
    return {path.stem.replace("_", "-"): path for path in files}


def summary(path: Path) -> str:
    """First line of a module's docstring, read without running the module."""
    docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    return docstring.partition("\n")[0]


class Failure(click.ClickException):
    """An `SSFTError` on its way to the user: `error: ...` on stderr, exit code 2, no traceback."""

    exit_code = 2

    def show(self, file: Any = None) -> None:
        click.echo(f"error: {self.format_message()}", file=file, err=True)


@contextmanager
def _own_suggestions() -> Iterator[None]:
    """Let an unknown option or subcommand be told with what `nearest` finds; click's own search finds what is far."""
    try:
        yield
    except (click.NoSuchOption, click.NoSuchCommand) as error:
        command: Any = error.ctx.command if error.ctx else click.Group()
        if isinstance(error, click.NoSuchOption):
            what, name = "option", error.option_name
            known = [text for option in command.params for text in (*option.opts, *option.secondary_opts)]
        else:
            what, name, known = "command", error.command_name, list(command.commands)
        hint = nearest(name, known)
        raise click.UsageError(f"No such {what} {name!r}{hint and f'; {hint}'}", error.ctx) from error


class CommandFiles(click.Group):
    """A group whose commands are imported only when they are called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(discover())

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        path = discover().get(cmd_name)
        if path is None:
            return None
        command = importlib.import_module(f"ssft.cli.{path.stem}").command
        command.name = cmd_name
        return command

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        for argument in args:
            try:
                whole = b"\0" not in os.fsencode(argument)
            except UnicodeEncodeError:
                whole = False
            if not whole:
                what = "holds a character that neither a file's name nor a text can hold"
                raise click.UsageError(f"{repr(argument)[:80]} {what}; write it without", ctx)
        with _own_suggestions():
            return super().parse_args(ctx, args)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name, known = str(args[0]), discover()
        if not ctx.resilient_parsing and not name.startswith("-") and name not in known:
            hint = nearest(name, known) or f"commands are {', '.join(known)}"
            raise click.UsageError(f"No such command {name!r}; {hint}", ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, summary(path)) for name, path in discover().items()])

    def invoke(self, ctx: click.Context) -> Any:
        try:
            with _own_suggestions():
                return super().invoke(ctx)
        except SSFTError as error:
            raise Failure(str(error)) from error


SETTINGS = {"help_option_names": ["-h", "--help"], "max_content_width": 100, "show_default": True}


@click.group(cls=CommandFiles, context_settings=SETTINGS)
@click.version_option(__version__, "--version", prog_name="ssft")
def cli() -> None:
    """Speculative Streaming: fine-tune adapters that draft for themselves and decode the same text faster."""


def main(args: Sequence[str] | None = None) -> NoReturn:
    """Run the command line and exit; the entry point of the console script."""
    # peft 0.21 asks transformers 5.23 by the old name; nothing that a user could change.
    warnings.filterwarnings("ignore", message="`is_gradient_checkpointing` is deprecated", category=FutureWarning)
    try:
        # Not standalone: click would turn Ctrl-C into exit code 1.
        code = cli.main(args=args, prog_name="ssft", standalone_mode=False)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        click.echo("interrupted", err=True)
        sys.exit(130)
    except BrokenPipeError:
        # The reader (`| head`) has gone; without this, Python complains again when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        sys.exit(1)
    sys.exit(code if isinstance(code, int) else 0)
