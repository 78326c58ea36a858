"""Give an adapter the token ids that its streams guess from, or measure what fewer of them would cost."""

from __future__ import annotations

from pathlib import Path

import click

from ssft.cli._adapted import Decoding, decoding_options
from ssft.cli._options import FILE, POSITIVE, data_option, json_option, limit_option, table
from ssft.cli._result import deliver, describe_data, result_facts
from ssft.errors import ConfigError

DATA_HELP = "Rows to learn the token ids from, as a rule those of the adapter's training: JSONL or .jsonl.gz."


@click.command()
@click.argument("adapter")
@data_option(required=True, help=DATA_HELP)
@click.option("--held-back", metavar="FILE", type=FILE, required=True, help="Rows to measure on, in the same form.")
@limit_option(default=20, help="Decode only the first N held-back rows. Coverage is counted over all of them.")
@click.option(
    "--size",
    "sizes",
    metavar="N",
    type=POSITIVE,
    multiple=True,
    default=(4096,),
    help="Most token ids of the vocabulary. The option can be repeated to compare sizes.",
)
@click.option(
    "--output",
    metavar="DIR",
    type=click.Path(file_okay=False, path_type=Path),
    help="Write the adapter with the vocabulary to this folder, which may be the adapter's own. Without it the command "
    "only measures.",
)
@decoding_options()
@json_option()
def command(
    adapter: str,
    data: Path,
    held_back: Path,
    limit: int,
    sizes: tuple[int, ...],
    output: Path | None,
    decoding: Decoding,
    as_json: bool,
) -> None:
    """Learn a draft vocabulary for ADAPTER: the token ids that its streams guess from.

    Those are the ids that the rows of --data use most, completions before prompts, with all special tokens. A request's
    own prompt adds its ids. The text stays the same whatever the vocabulary is; only drafts are lost. The table
    compares the whole vocabulary with each --size on the rows of --held-back.
    """
    from ssft.bench.vocabulary import measure_vocabularies, token_rows
    from ssft.bundle.write import check_replaceable, write_with_vocabulary
    from ssft.card.notes import carried_over
    from ssft.card.write import write_card
    from ssft.recipes.data import load_rows
    from ssft.training.vocabulary import learn_vocabulary, special_tokens

    if output is not None:
        if len(sizes) != 1:
            raise ConfigError(f"--output writes one vocabulary, but {len(sizes)} sizes are given; give one --size")
        check_replaceable(output)
    seen, unseen = load_rows(data), load_rows(held_back)
    adapted = decoding.open(adapter)
    bundle = adapted.active.bundle
    if bundle is None or adapted.active.streams is None:
        raise ConfigError(
            f"{adapted.active.name!r} has no streams, which are what guesses from a vocabulary; give an adapter that "
            "`ssft train` wrote"
        )
    keep = carried_over(bundle.path, scores_of=bundle.text_sha256)
    always, rows = special_tokens(adapted.model, adapted.tokenizer), token_rows(adapted, seen)
    learned = [learn_vocabulary(rows, always, size, adapted.model.config.vocab_size) for size in sizes]
    measured = measure_vocabularies(
        adapted,
        learned,
        token_rows(adapted, unseen),
        limit,
        max_new_tokens=decoding.max_new_tokens,
        batch_size=decoding.batch_size,
        progress=True,
    )
    if output is not None:
        write_card(write_with_vocabulary(output, bundle, learned[0], keep))
    found = {
        **result_facts("vocabulary", adapted, data, len(seen), decoding),
        "held_back": describe_data(held_back),
        "vocabularies": measured,
        "output": None if output is None else output.name,
    }

    def show() -> None:
        click.echo(f"{adapted.active.name}: {len(seen):,} rows, {adapted.precision} on {adapted.device}")
        whole = measured[0].tokens_per_call
        lines = [
            [
                f"{result.ids:,}",
                f"{result.covered:.2%}",
                f"{result.covered_with_prompt:.2%}",
                f"{result.tokens_per_call:.3f}",
                f"{result.tokens_per_call / whole - 1:+.2%}",
                f"{result.identical} of {result.rows}",
            ]
            for result in measured
        ]
        table(lines, ["token ids", "covered", "with the prompt", "tokens per call", "change", "same text"])
        if output is not None:
            click.echo(f"wrote {output}")

    deliver(found, None, as_json, show)
