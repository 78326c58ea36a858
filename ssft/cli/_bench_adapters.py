"""`ssft bench adapters`: what many adapters over one base cost."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from ssft.cli._adapted import prompt_rows
from ssft.cli._bench import print_tables, rounds_option
from ssft.cli._options import (
    Whole,
    base_option,
    device_option,
    dtype_option,
    json_option,
    limit_option,
    max_new_tokens_option,
    quantization_option,
    seed_option,
    set_threads,
    threads_option,
)
from ssft.cli._result import deliver, file_option
from ssft.cli._shelf import adapter_names, data_files, files_option, shared_base


@click.command("adapters")
@click.argument("adapters", nargs=-1, required=True, metavar="ADAPTER...")
@files_option()
@limit_option(default=8, help="Prompts per adapter; repeated where they do not fill batches of 8.")
@max_new_tokens_option(default=64)
@rounds_option("Paired rounds of every comparison.")
@click.option(
    "--adapters",
    "loads",
    metavar="N",
    type=Whole(min=2),
    default=100,
    show_default=True,
    help="Load the given folders again and again, until N are loaded, to measure loading, switching and memory.",
)
@seed_option(help="Order within the rounds, and the bootstrap.")
@base_option(default=None, help="Base model: an alias, a folder or a hub id; without it the first adapter's own.")
@quantization_option()
@dtype_option()
@device_option()
@threads_option()
@file_option()
@json_option()
def adapters_command(
    adapters: tuple[str, ...],
    data: tuple[str, ...],
    limit: int,
    base: str | None,
    quantization: str,
    dtype: str,
    device: str | None,
    threads: int | None,
    output: Path | None,
    as_json: bool,
    **settings: Any,
) -> None:
    """Measure what many adapters over one base cost: switching, loading, memory, mixed batches, batches of one.

    A ratio is the speed of the second way of running the same rows over that of the first, median of paired rounds
    with a bootstrap 95 % interval; 1 is no cost. Ctrl-C after the loading reports what is there.
    """
    paths = adapter_names(adapters)
    from ssft.bench.adapters import measure_adapters
    from ssft.bench.answers import encode_rows
    from ssft.bench.report.adapters import heading, tables
    from ssft.runtime.model import MultiAdapterModel

    name = shared_base(paths, base)
    files = data_files(list(paths), data)
    rows = {name: prompt_rows(str(path), files.get(name), limit) for name, path in paths.items()}
    set_threads(threads)
    model = MultiAdapterModel.from_pretrained(name, quantization=quantization, dtype=dtype, device_map=device)
    result = measure_adapters(
        model,
        paths,
        {name: encode_rows(model, own, f"prompts of {name}: ") for name, own in rows.items()},
        **settings,  # the options that are left, by their names
    )
    deliver(result, output, as_json, lambda: print_tables(heading(result), tables(result)))
