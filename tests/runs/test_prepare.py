"""What a prepared run trains on: own tables, rows that are too long, and what is said about both."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner
from tiny_base import TEMPLATE, rows, save_rows, save_tiny_base

from ssft.cli.main import cli
from ssft.errors import DataError
from ssft.recipes.recipe import load_recipe, recipe_names
from ssft.runs.prepare import prepare
from ssft.runs.train import build_trainer, train

LIMIT = 40
LONG = {"prompt": "say:", "completion": "a long answer, " * 9}  # a token a character
NO_ROOM = {"prompt": "a long prompt" * 9, "completion": "a"}
SETTINGS = ["training.num_msa_layers=2", f"training.max_length={LIMIT}", "dtype=float32", "training.use_cpu=true"]


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return save_tiny_base(tmp_path_factory.mktemp("tiny") / "base")


@pytest.fixture
def settings(base, tmp_path):
    """A training file with 6 rows, of which one can be cut and one cannot, and a validation file with 2."""
    train = save_rows(tmp_path / "train.jsonl", [*rows(2), LONG, *rows(2, start=2), NO_ROOM])
    validation = save_rows(tmp_path / "validation.jsonl", rows(2))
    return [f"base={base}", f"data.train={train}", f"data.validation={validation}", *SETTINGS]


def prepared(folder, settings, *more):
    return prepare(load_recipe("quickstart", [*settings, *more]), folder / "out")


def test_long_rows_are_left_out_and_told(settings, tmp_path):
    run = prepared(tmp_path, settings)
    assert run.train["prompt"][:] == [row["prompt"] for row in rows(4)]
    train, validation = run.told
    assert train.startswith(f"train: 6 rows of {tmp_path / 'train.jsonl'} (prompt and completion)")
    assert train.endswith("; longer than 40 tokens: 2 left out (data.long_rows=drop)")
    assert validation == f"validation: 2 rows of {tmp_path / 'validation.jsonl'} (prompt and completion)"


def test_long_rows_are_cut_to_what_is_read(settings, tmp_path):
    run = prepared(tmp_path, settings, "data.long_rows=cut")
    assert run.told[0].endswith("; longer than 40 tokens: 1 left out, 1 cut (data.long_rows=cut)")
    read = build_trainer(run).train_dataset["input_ids"][:]
    whole = run.tokenizer(LONG["prompt"] + LONG["completion"])["input_ids"]
    assert read[2] == whole[:LIMIT]
    assert len(read) == 5


def test_long_rows_are_cut_to_the_base_where_no_length_is_set(base, settings, tmp_path):
    long = {**LONG, "completion": "a" * 5000}
    save_rows(tmp_path / "train.jsonl", [long, *rows(2)])
    run = prepared(tmp_path, settings, "training.max_length=none", "data.long_rows=cut")
    context = run.model.config.max_position_embeddings
    assert len(build_trainer(run).train_dataset["input_ids"][0]) == context < 5000


def test_a_long_row_ends_the_run_where_asked_for(settings, tmp_path):
    with pytest.raises(DataError, match=r"data\.train, row 3: prompt and completion have 4 \+ 136 tokens, and 40 fit"):
        prepared(tmp_path, settings, "data.long_rows=error")


def test_a_text_alone_is_trained_on_whole(settings, tmp_path):
    save_rows(tmp_path / "train.jsonl", [{"text": "a text, as it is"}] * 2)
    run = prepared(tmp_path, settings)
    (first, _) = build_trainer(run).train_dataset["labels"][:]
    assert first == [*run.tokenizer("a text, as it is")["input_ids"], run.tokenizer.eos_token_id]


def test_the_command_says_which_rows_it_takes(settings, tmp_path):
    (tmp_path / "train.csv").write_text("text,label\n" + "".join(f"say {n},{n}\n" for n in range(9)))
    columns = ["data.columns={prompt: text, completion: label}", f"data.train={tmp_path / 'train.csv'}"]
    more = [*columns, "data.max_train_rows=4", "training.per_device_train_batch_size=2"]
    done = CliRunner().invoke(
        cli, ["train", "quickstart", *settings, *more, "--dry-run", "--output", str(tmp_path / "told")]
    )
    assert done.exit_code == 0, done.output
    assert (
        f"train: 4 of 9 rows (data.max_train_rows=4; 0 takes all) of {tmp_path / 'train.csv'} (data.columns)"
        in done.stderr
    )
    assert "train:" not in done.stdout.split("first example")[1]


def test_a_share_of_layers_becomes_their_number_and_is_told(settings, tmp_path):
    more = ["training.num_msa_layers=0.4", "training.max_steps=1", "lora.r=2"]
    done = CliRunner().invoke(
        cli, ["train", "quickstart", *settings, *more, "--dry-run", "--output", str(tmp_path / "told")]
    )
    assert done.exit_code == 0, done.output
    assert "streams: in the top 2 of 4 layers (num_msa_layers=0.4)" in done.stderr
    run = prepared(tmp_path, settings, *more)
    assert (run.args.num_msa_layers, len(run.told)) == (2, 3)
    bundle = train(run, tmp_path / "out").path
    assert json.loads((bundle / "ssft_config.json").read_text())["streams"]["num_msa_layers"] == 2
    assert load_recipe(bundle / "run.yaml").training["num_msa_layers"] == 0.4


@pytest.mark.parametrize("name", [name for name in recipe_names() if load_recipe(name).method == "streams"])
def test_every_recipe_of_streams_is_ready_to_run(base, settings, tmp_path, name):
    del settings[3]  # the recipe's own share of layers
    run = prepare(load_recipe(name, [*settings, "adapter="]), tmp_path / "out")
    share = load_recipe(name).training["num_msa_layers"]
    assert run.args.num_msa_layers == max(1, round(share * 4))
    assert f"streams: in the top {run.args.num_msa_layers} of 4 layers (num_msa_layers={share})" in run.told


def test_the_quickstart_recipe_takes_all_rows_of_own_data(settings, tmp_path):
    save_rows(tmp_path / "train.jsonl", rows(400))
    save_rows(tmp_path / "validation.jsonl", rows(20))
    run = prepared(tmp_path, settings)
    assert (len(run.train), len(run.validation)) == (400, 20)
    built_in = prepare(load_recipe("quickstart", [settings[0], "training.num_msa_layers=2"]), tmp_path / "out")
    assert (len(built_in.train), len(built_in.validation)) == (300, 8)


def dry_run(settings, template, base):
    """`ssft train chat_lossless --dry-run` over chats with two turns, with a chat template of the test's own."""
    chat = [{"role": role, "content": f"{role} {turn}"} for turn in (1, 2) for role in ("user", "assistant")]
    path = next(s for s in settings if s.startswith("data.train=")).partition("=")[2]
    save_rows(Path(path), [{"messages": chat}] * 3)
    save_rows(Path(path).with_name("validation.jsonl"), [{"messages": chat[:2]}])
    (base / "chat_template.jinja").write_text(template)
    more = ["training.max_length=200", "training.per_device_train_batch_size=2", "lora.r=2", "--dry-run", "--json"]
    return CliRunner().invoke(cli, ["train", "chat_lossless", *settings, *more])


def test_a_dry_run_says_what_is_learned_and_that_the_end_of_a_turn_is(settings, tmp_path):
    base = save_tiny_base(tmp_path / "ends")
    settings[0] = f"base={base}"
    done = dry_run(settings, TEMPLATE.replace("'\n' }}", "'<eos>' }}"), base)
    assert done.exit_code == 0, done.output
    facts = json.loads(done.stdout)
    assert facts["rows"]["train"] == 6
    # "assistant 1" and the end of the turn, a token a character
    assert facts["learned"] == {"tokens_per_row": 12.0, "end_of_turn": "<eos>", "rows_with_end": 6}
    text = "".join(part["token"] for part in facts["example"] if part["loss"])
    assert text == "assistant 1<eos>"


def test_a_dry_run_refuses_rows_whose_end_would_not_be_learned(settings, tmp_path):
    base = save_tiny_base(tmp_path / "endless")
    settings[0] = f"base={base}"
    done = dry_run(settings, TEMPLATE, base)
    assert done.exit_code == 2
    assert "training row 1: the token that ends an answer (<eos>) is not among its 12 tokens with loss" in done.stderr
