"""Upload an adapter to the Hugging Face hub."""

from __future__ import annotations

from dataclasses import asdict

import click

from ssft.cli._options import json_option, print_json


@click.command()
@click.argument("adapter")
@click.argument("repo", metavar="OWNER/NAME")
@click.option(
    "--private",
    is_flag=True,
    help="Make the new repository private. If the repository exists and is public, nothing is uploaded.",
)
@click.option(
    "--revision",
    metavar="BRANCH",
    help="Branch to upload to, which the hub makes if it does not exist. Without it the command takes main.",
)
@click.option("--create-pr", is_flag=True, help="Open a pull request instead of committing to the main branch.")
@json_option()
def command(adapter: str, repo: str, private: bool, revision: str | None, create_pr: bool, as_json: bool) -> None:
    """Check the folder ADAPTER and upload its own files, nothing else, to the repository OWNER/NAME in one commit.

    README.md, the card, is written for the repository: its commands name OWNER/NAME. The folder stays as it is. The
    repository is made if there is none. The token is that of HF_TOKEN or of `hf auth login`; HF_ENDPOINT names another
    hub. After an interruption the same command goes on: large files that arrived are not sent again.
    """
    from ssft.hub import push

    pushed = push(adapter, repo, private=private, revision=revision, create_pr=create_pr)
    total = sum(pushed.files.values())
    if as_json:
        print_json({**asdict(pushed), "path": adapter, "bytes": total})
        return
    if pushed.changed:
        click.echo(f"pushed {len(pushed.files)} files, {total:,} bytes, to {pushed.repo} ({pushed.revision})")
    else:
        click.echo(f"{pushed.repo} ({pushed.revision}) holds these files already")
    click.echo(pushed.pull_request or pushed.url)
