"""What a card tells its reader to run does run: over a tiny base, from the folder and from the repository it names."""

import json
import re
import shlex
import shutil

import pytest
from adapter_folders import peft_folder
from click.testing import CliRunner
from loopback_hub import connected_hub
from markdown_it import MarkdownIt
from tiny_base import rows, save_rows, save_tiny_base
from transformers import AutoModelForCausalLM

from ssft.bundle.format import CARD
from ssft.bundle.read import read_bundle
from ssft.cli.main import cli
from ssft.hub import push
from ssft.recipes.recipe import load_recipe

REPO = "alice/deep-one"
SETTINGS = [
    "dtype=float32", "lora.r=4", "lora.lora_alpha=8", "training.num_streams=2", "training.num_msa_layers=1",
    "training.max_steps=1",
    "training.per_device_train_batch_size=2", "training.disable_tqdm=true", "data.validation=validation.jsonl",
]  # fmt: skip


def invoke(*args):
    result = CliRunner().invoke(cli, list(map(str, args)))
    assert result.exit_code == 0, result.output
    return result


@pytest.fixture(scope="module")
def shelf(tmp_path_factory):
    """Over one LoRA of plain peft: `own`, which keeps it, and `shared`, which went on from its values."""
    root = tmp_path_factory.mktemp("shelf")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        save_tiny_base(root / "base")
        save_rows(root / "train.jsonl", rows(8))
        save_rows(root / "validation.jsonl", rows(2, start=8))
        peft_folder(root / "start", AutoModelForCausalLM.from_pretrained("base"))
        for name, mode in (("own", "lossless"), ("shared", "shared")):
            words = ["base=base", "adapter=start", "data.train=train.jsonl", *SETTINGS, f"training.mode={mode}"]
            invoke("train", "quickstart", *words, "--output", f"adapters/{name}", "--device", "cpu")
    return root


@pytest.fixture
def place(shelf, tmp_path, monkeypatch):
    shutil.copytree(shelf, tmp_path / "place")
    monkeypatch.chdir(tmp_path / "place")
    return tmp_path / "place"


def blocks(card, language):
    """The card's blocks of code, with the tiny base and start in the place of what the reader has to fill in."""
    found = [token.content for token in MarkdownIt().parse(card) if token.type == "fence" and token.info == language]
    return [re.sub(r"folder/of/the/(base|start)", r"\1", block) for block in found]


def commands(card):
    lines = [line.partition("   #")[0] for block in blocks(card, "bash") for line in block.splitlines()]
    return [shlex.split(line) for line in lines]


def run(command):
    assert command[0] == "ssft"
    return invoke(*command[1:])


def run_card(card, capsys):
    """Run everything; returns the command that trains again."""
    *others, again = commands(card)
    assert [command[1] for command in others] in (["generate"], ["generate", "pull"])
    outputs = [run(command).stdout for command in others]
    ours, plain = blocks(card, "python")
    names = {}
    exec(compile(ours, "card", "exec"), names)
    printed = capsys.readouterr().out
    assert names["answer"]["calls"] > 0
    assert names["answer"]["text"] in printed
    assert names["answer"]["text"].strip() in outputs[0]
    return again, plain


@pytest.mark.parametrize("name", ["own", "shared"])
def test_the_card_in_a_folder(place, name, capsys):
    card = (place / "adapters" / name / CARD).read_text(encoding="utf-8")
    again, plain = run_card(card, capsys)
    assert f"adapters/{name}" in commands(card)[0]
    exec(compile(plain, "card", "exec"), names := {})
    assert names["model"].peft_config["default"].r == 4
    assert again[:3] == ["ssft", "train", f"adapters/{name}/run.yaml"]
    assert f"adapter={'adapters/own' if name == 'own' else 'start'}" in again
    facts = json.loads(run([*again, "--dry-run", "--json"]).stdout)
    assert facts["rows"] == {"train": 8, "validation": 2}


def test_a_run_over_a_kept_lora_begins_from_the_bundle_that_holds_it(place):
    """The folder `start`, which nobody else has, is gone."""
    shutil.rmtree("start")
    *_, again = commands((place / "adapters" / "own" / CARD).read_text(encoding="utf-8"))
    run(again)
    before, after = read_bundle("adapters/own"), read_bundle("outputs/again")
    assert after.format_version == 2
    # The same start, seed and data: the same LoRA, and the same streams with theirs.
    tensors = [(bundle.stream_weights, *(part.weights for part in bundle.loras)) for bundle in (before, after)]
    for old, new in zip(*tensors, strict=True):
        assert old.keys() == new.keys()
        assert all(new[key].equal(value) for key, value in old.items())
    assert after.provenance["adapter"] == {"name": "own", "weights_sha256": before.weights_sha256}
    assert load_recipe("outputs/again/run.yaml").adapter == "adapters/own"
    text = (place / "outputs" / "again" / CARD).read_text(encoding="utf-8")
    kept = f"that of another adapter named own (weights {before.weights_sha256[:12]}), kept as it was, in float32"
    assert f"| the LoRA | {kept} |" in text


def test_the_card_on_the_hub(place, monkeypatch, tmp_path, capsys):
    with connected_hub(monkeypatch, tmp_path) as hub:
        monkeypatch.chdir(place)
        local = (place / "adapters" / "own" / CARD).read_bytes()
        push("adapters/own", REPO)
        assert (place / "adapters" / "own" / CARD).read_bytes() == local
        card = hub.files(REPO)[CARD].decode()
        assert "# deep-one\n" in card
        shutil.rmtree("adapters")
        again, plain = run_card(card, capsys)
        assert commands(card)[0][2] == REPO
        assert f'PeftModel.from_pretrained(base, "{REPO}")' in plain
        assert f"adapter=adapters/{REPO.partition('/')[2]}" in again
        run([*again, "--dry-run"])
