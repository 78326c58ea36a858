"""Every command and every Python example of the documents runs on a tiny base, or is listed here with the reason."""

import json
import re
import shlex
import shutil
from pathlib import Path

import click
import pytest
from click.testing import CliRunner
from datasets import Dataset
from documents import ROOT, blocks, commands
from peft import PeftModel
from shelf import save_adapter
from tiny_base import byte_tokenizer, rows, save_rows, save_tiny_base
from transformers import AutoModelForCausalLM, AutoTokenizer

from ssft import read_bundle
from ssft.cli.main import cli
from ssft.recipes.recipe import load_recipe
from ssft.runtime.model import MultiAdapterModel

REAL_BASES = ("smollm2-135m", "HuggingFaceTB/SmolLM2-135M-Instruct")
PAGE = "docs/first-adapter.md"  # runs from its begin to its end, in tests/test_first_adapter.py
BASE = "base"  # a folder beside what the documents name: a tiny one

ELSEWHERE = {
    "ssft push outputs/sql owner/sql": "needs the hub; tests/hub/test_hub.py pushes to one on loopback",
    "ssft pull owner/sql --revision main": "needs the hub; tests/hub/test_hub.py pulls from one on loopback",
    "ssft bases fetch smollm2-135m": "needs a download; tests/base/test_embedded.py fetches from files",
    "pip wheel --no-deps --wheel-dir dist .": "builds the wheel",
    "pip install 'dist/ssft-*.whl'": "needs a package index",
    "make demo": "trains over the real base, for minutes",
    "make test": "runs this",
    "make setup TORCH=torch==2.13.0 TORCH_INDEX=URL": "needs a package index",
    "make retrain-sql DATA=data": "trains over the real base, for hours",
    "make retrain-e2e_nlg DATA=data": "trains over the real base, for hours",
    "make retrain-dialogsum DATA=data": "trains over the real base, for hours",
    "make retrain-chat": "trains over the real base, for hours",
    "torchrun --nproc_per_node 4 -m ssft train sql data.train=train.jsonl data.validation=validation.jsonl --output "
    "outputs/sql": "needs several processes",
    "ssft bench never-slower adapters/sql adapters/e2e_nlg --chat prompts.jsonl --data validation.jsonl": "its exit "
    "code is a verdict on the machine; tests/bench/test_never_slower.py runs it",
    "ssft accelerate smollm2-135m --minutes 60 --output outputs/fast": "takes its time; tests/accelerate runs it",
    "ssft accelerate smollm2-135m --adapter my_lora --data prompts.jsonl --minutes 60 --output outputs/fast": "so",
    "python examples/switch_tasks.py": "tests/test_examples.py runs it",
    "python docs/tables.py": "tests/test_docs.py runs it",
}
"""Commands that are only parsed here, and why."""

# What makes a command small; appended, so that it takes the place of what the document says.
TRAIN = [
    "dtype=float32", "quantization=none", "data.max_train_rows=4", "data.max_validation_rows=2", "training.max_steps=1",
    "training.per_device_train_batch_size=2", "training.num_msa_layers=2", "training.warmup_steps=0", "lora.r=2",
    "training.disable_tqdm=true",
]  # fmt: skip
PEER = [value for value in TRAIN if not value.startswith(("training.num_msa_layers", "lora."))]
DECODE = ["--dtype", "float32", "--max-new-tokens", "6", "--limit", "1"]
BENCH = [*DECODE, "--rounds", "1", "--methods", "plain,streaming"]
OWN = ["--dtype", "float32", "--max-new-tokens", "64", "--output", "new.jsonl"]  # so that an answer comes to its end
SMALL = {
    "generate": ["--dtype", "float32", "--max-new-tokens", "6"],
    "distill": OWN,
    "distill base --questions": [*OWN, "--questions", "2", "--max-question-tokens", "64"],
    "verify": [*DECODE, "--limit", "3"],
    "vocabulary": DECODE,
    "tune": DECODE,
    "eval": [*DECODE, "--limit", "3"],
    "bench": BENCH,
    "bench --compare": [],
    "bench tasks": [*BENCH, "--quality-limit", "1"],
    "bench profile": DECODE,
    "bench prune": [*DECODE, "--rounds", "1"],
    "bench adapters": [*DECODE, "--rounds", "1", "--adapters", "3"],
    "bench train": ["--batches", "1", "--rounds", "1", *TRAIN],
    "train": TRAIN,
    "train peers/medusa_sql": [*PEER, "medusa.num_heads=2"],
    "train peers/draft_sql": [*PEER, "draft.num_layers=2"],
}

COMMANDS = [(block, command) for block in blocks("bash") for command in commands(block)]
# Each once: a command that stands in several documents finds the same folder each time.
APART = list({tuple(command): (block, command) for block, command in COMMANDS if block.document != PAGE}.values())
OF_SSFT = [(block, command[command.index("ssft") + 1 :]) for block, command in APART if "ssft" in command]
TO_RUN = [(block, command[1:]) for block, command in APART if shlex.join(command) not in ELSEWHERE]


def named(pairs):
    return [pytest.param(*pair, id=f"{pair[0]}-{shlex.join(pair[1])[:60]!r}") for pair in pairs]


def invoke(*arguments):
    done = CliRunner().invoke(cli, [str(argument) for argument in arguments])
    assert done.exit_code == 0, (arguments, done.output, done.exception)
    return done.stdout


def small(arguments):
    """The arguments with the tiny base in the place of the real one, and with `SMALL`'s behind them."""
    words = [BASE if word in REAL_BASES else word for word in arguments]
    keys = [" ".join(words[:length]) for length in (3, 2, 1)]
    words += next((SMALL[key] for key in keys if key in SMALL), [])
    if words[0] == "train" or words[:2] == ["bench", "train"]:
        words.append(f"base={BASE}")
    if words[0] == "train":
        words.append("--force")  # `home` holds the adapter that a reader of the document makes here first
    return words


# -- what the documents take for granted ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A folder with a tiny base and with every file and adapter that the documents name."""
    place = tmp_path_factory.mktemp("documents")
    save_tiny_base(place / BASE, make_tokenizer=byte_tokenizer)
    shutil.copytree(ROOT / "examples", place / "examples")
    for name in ("train", "own"):
        save_rows(place / f"{name}.jsonl", rows(60))
    for name in ("validation", "renamed", "prompts", "sql", "e2e_nlg", "dialogsum"):
        save_rows(place / f"{name}.jsonl", rows(4))
    (place / "mails.csv").write_text("text,label\n" + "".join(f"say {n},{n} and {n}\n" for n in range(60)))
    questions = [{"question_id": 81 + number, "category": "writing", "turns": ["say 1:"]} for number in range(2)]
    save_rows(place / "question.jsonl", questions)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        files = ["data.train=train.jsonl", "data.validation=validation.jsonl"]
        invoke(*small(["train", "sql", *files, "--output", "outputs/sql"]))
        head = ["method=prune_head", "adapter=outputs/sql", "training.prune_head_rank=2"]
        invoke(*small(["train", "sql", *files, *head, "--output", "outputs/sql-pruning"]))
        for name in ("outputs/e2e_nlg", "outputs/dialogsum", "adapters/sql", "adapters/e2e_nlg", "adapters/dialogsum"):
            shutil.copytree("outputs/sql", name)
        Path("outputs/peers/sql").mkdir(parents=True)
        result = ["bench", "outputs/sql", "--data", "validation.jsonl", "--dtype", "float32"]
        for name in ("bench", "before", "after"):
            invoke(*small([*result, "--output", f"{name}.json"]))
        save_adapter("my_lora", BASE)
    return place


@pytest.fixture
def here(home, tmp_path, monkeypatch):
    """The working folder is a copy of the documents' files, for one test alone."""
    shutil.copytree(home, tmp_path / "place")
    monkeypatch.chdir(tmp_path / "place")


# -- commands -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("block", "arguments"), named(OF_SSFT))
def test_a_command_is_one_that_ssft_takes(block, arguments, home, monkeypatch):
    """Every option exists, and every value is one that the option takes."""
    monkeypatch.chdir(home)
    command, context = cli, cli.make_context("ssft", list(arguments))
    while isinstance(command, click.Group) and (rest := [*context._protected_args, *context.args]):
        name, command, rest = command.resolve_command(context, rest)
        context = command.make_context(name, rest, parent=context)
    if "recipe" in context.params and "overrides" in context.params:
        load_recipe(context.params["recipe"], context.params["overrides"])


@pytest.mark.parametrize(("block", "arguments"), named(TO_RUN))
def test_a_command_runs(block, arguments, here):
    invoke(*small(arguments))


def test_what_does_not_run_here_stands_in_a_document_and_exists():
    assert {shlex.join(command) for _, command in COMMANDS} >= set(ELSEWHERE)
    targets = re.search(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)[1].split()
    for _, (program, *arguments) in COMMANDS:
        if program == "make":
            assert arguments[0] in targets
        if program == "python":
            assert (ROOT / arguments[0]).is_file()


# -- Python ---------------------------------------------------------------------------------------------------------

# What makes an example small: text of the document -> text that runs.
CHANGES = {
    'quantization="4bit"': 'dtype="float32"',
    "num_msa_layers=8": 'num_msa_layers=2, use_cpu=True, max_steps=1, report_to="none"',
    "max_new_tokens=64": "max_new_tokens=8",
    "max_new_tokens=96": "max_new_tokens=8",
}


@pytest.mark.parametrize("block", [block for block in blocks("python") if block.document != PAGE], ids=str)
def test_a_python_example_runs(block, here, capsys, monkeypatch):
    for method in (MultiAdapterModel.generate, MultiAdapterModel.stream):
        monkeypatch.setitem(method.__kwdefaults__, "max_new_tokens", 48)
    text = block.text
    for before, after in {**dict.fromkeys(REAL_BASES, BASE), **CHANGES}.items():
        text = text.replace(before, after)
    tokenizer = AutoTokenizer.from_pretrained(BASE)
    names = {
        "question": "say 1:",
        "record": {"prompt": "say 2:"},
        "chat": [{"role": "user", "content": "say 3"}],
        "base": AutoModelForCausalLM.from_pretrained(BASE),
        "inputs": tokenizer("say 1:", return_tensors="pt"),
        "dataset": Dataset.from_list(rows(4)),
    }
    if "model." in text and "model = " not in text:  # it goes on with the model of the block before
        names["model"] = MultiAdapterModel.from_pretrained(BASE, dtype="float32")
        names["model"].load_adapter("adapters/sql")
    exec(compile(text, str(block), "exec"), names)
    checks = [check for name, check in CHECKS.items() if name in names]
    assert checks, f"{block}: nothing that is checked comes out of it; add it to CHECKS"
    for check in checks:
        check(names, capsys.readouterr().out)


def many_adapters(names, printed):
    answers, stop = names["answers"], "\n\n"
    assert len(answers) == 3
    model, record = names["model"], names["record"]
    alone = [model.generate(names["question"], "sql"), model.generate(record, "restaurants")]
    assert all(text.split(stop)[0].startswith(answer) for text, answer in zip(alone, answers, strict=False))
    assert alone[1] in printed


def a_trained_folder(names, printed):
    bundle = read_bundle("outputs/mine")
    assert bundle.stream_config.num_streams == 4
    assert bundle.tree.max_nodes == 16


def ids_of_peft(names, printed):
    plain = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(BASE), "adapters/sql")
    expected = plain.generate(**names["inputs"], do_sample=False, max_new_tokens=8)
    assert names["ids"].tolist() == expected.tolist()


def drawn_texts(names, printed):
    model, question = names["model"], names["question"]
    assert len(set(names["four"])) > 1
    alone = [model.generate(question, "sql", temperature=1.0, seed=seed) for seed in (1, 2, 3, 4)]
    assert names["four"] == alone


def texts_of_a_form(names, printed):
    value = json.loads(names["filled"])
    assert set(value) == {"city", "people"}
    assert isinstance(value["people"], int)
    assert names["free"] == names["model"].generate(names["record"], adapter=None)
    assert re.fullmatch("SELECT [a-z_]+ FROM [a-z_0-9]+", names["query"])


CHECKS = {
    "filled": texts_of_a_form,
    "four": drawn_texts,
    "answers": many_adapters,
    "trainer": a_trained_folder,
    "ids": ids_of_peft,
}
