"""What `did you mean` suggests: another name of the same thing, else a slip of the pen, else nothing."""

import pytest

from ssft.cli.main import cli, discover
from ssft.errors import SYNONYMS, near_names, nearest
from ssft.recipes.recipe import SECTIONS, TOP, describe_keys

KEYS = [f"{home}.{key}" if home else key for home in (TOP, *SECTIONS) for key, *_ in describe_keys(home)]
COMMANDS = list(discover())
OPTIONS = sorted(
    {
        text
        for name in COMMANDS
        for option in cli.get_command(None, name).params
        for text in option.opts
        if text[0] == "-"
    }
)


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("training.lr", ["training.learning_rate"]),
        ("lr", ["training.learning_rate"]),
        ("training.gamma", ["training.num_streams"]),
        ("epochs", ["training.num_train_epochs"]),
        ("training.batch_size", ["training.per_device_train_batch_size"]),
        ("rank", ["lora.r"]),
        ("lora.alpha", ["lora.lora_alpha"]),
        ("training.dropout", ["lora.lora_dropout"]),
        ("training.N_s", ["training.num_msa_layers"]),
        ("warmup", ["training.warmup_steps"]),
        ("tree.nodes", ["tree.max_nodes"]),
        ("dataset", ["data.train"]),
        ("model_name_or_path", ["base"]),
        ("traning.num_streams", ["training.num_streams"]),
        ("tree.num_streams", ["training.num_streams"]),
        ("training.learning_rat", ["training.learning_rate"]),
        ("training.temperature", []),
        ("tree.top_p", []),
        ("training.foo", []),
        ("tf", []),
    ],
)
def test_keys_of_a_recipe(name, meant):
    assert near_names(name, KEYS) == meant


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("serve", []),
        ("chat", []),
        ("finetune", ["train"]),
        ("run", ["generate"]),
        ("evaluate", ["eval"]),
        ("verfiy", ["verify"]),
        ("gener", ["generate"]),
    ],
)
def test_commands(name, meant):
    assert near_names(name, COMMANDS) == meant


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("--port", []),
        ("--max-tokens", ["--max-new-tokens"]),
        ("--model", ["--base"]),
        ("--rows", ["--limit"]),
        ("--ouput", ["--output"]),
        ("--max_new_tokens", ["--max-new-tokens"]),
    ],
)
def test_options(name, meant):
    assert near_names(name, OPTIONS) == meant


def test_a_sentence_names_all_that_are_near():
    assert nearest("lora.template", KEYS) == ("did you mean 'data.prompt_template' or 'data.completion_template'?")
    assert nearest("foo", KEYS) == ""


def test_every_synonym_means_something_that_there_is():
    names = {name.rpartition(".")[2].lstrip("-").replace("-", "_") for name in (*KEYS, *COMMANDS, *OPTIONS)}
    assert {meant for several in SYNONYMS.values() for meant in several} <= names
