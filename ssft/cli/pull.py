"""Download an adapter from the Hugging Face hub."""

from __future__ import annotations

from pathlib import Path

import click

from ssft.cli._options import json_option, print_json


@click.command()
@click.argument("repo", metavar="OWNER/NAME")
@click.option("--revision", help="Branch, tag or commit to download. Without it the command takes main.")
@click.option(
    "--output",
    metavar="DIR",
    type=click.Path(path_type=Path),
    help="Folder to write; an adapter that is there is replaced. Without it the command writes adapters/NAME.",
)
@json_option()
def command(repo: str, revision: str | None, output: Path | None, as_json: bool) -> None:
    """Download the adapter of the repository OWNER/NAME, check it, and put it into a folder.

    Only a bundle's own files are fetched. The folder appears whole or not at all; after an interruption the same
    command goes on with the files that are missing. A plain peft LoRA is pulled too. A private repository needs
    HF_TOKEN or `hf auth login`; HF_ENDPOINT names another hub.
    """
    from ssft.bundle.hub import pull

    pulled = pull(repo, output, revision)
    streams = pulled.bundle.stream_config
    total = sum(pulled.files.values())
    if as_json:
        facts = {key: getattr(pulled, key) for key in ("repo", "revision", "commit", "path", "base", "files")}
        print_json({**facts, "streams": streams and streams.stream_dict(), "bytes": total})
        return
    click.echo(f"pulled {pulled.repo} ({pulled.revision}, commit {pulled.commit[:12]}) to {pulled.path}")
    click.echo(f"{len(pulled.files)} files, {total:,} bytes; base {pulled.base or 'not named'}")
    if streams is None:
        needed = "" if pulled.base else " Name its base with --base."
        click.echo(f"It has no streams: a plain LoRA, decoded one token per pass.{needed}")
    else:
        click.echo(f"{streams.num_streams} streams in the top {streams.num_msa_layers} layers")
