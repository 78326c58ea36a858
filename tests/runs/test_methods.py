"""Whole runs of every method through the command line: what is written, resume, dry run, bad input."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from adapter_folders import change_tensor
from click.testing import CliRunner
from safetensors.torch import load_file
from tiny_base import rows, save_rows, save_tiny_base
from transformers import AutoModelForCausalLM, AutoTokenizer

from ssft.bench.methods import Setting, build_methods
from ssft.bench.peers import PARTS, peers_folder, twin_folder
from ssft.bundle.read import read_bundle
from ssft.cli.train import command
from ssft.errors import BundleError, ConfigError
from ssft.recipes.recipe import dump_recipe, load_recipe, recipe_path
from ssft.runs import train as run_train
from ssft.runs.medusa_folder import load_medusa
from ssft.runs.methods import method_names, training_method
from ssft.runs.prepare import default_output
from ssft.runs.provenance import method_of, told_by
from ssft.runtime.loader import load_adapted
from ssft.training.medusa import MedusaTrainer

PEERS = {"lora": "twin", "medusa": "medusa", "draft": "draft"}
WEIGHTS = {"lora": "adapter_model.safetensors", "medusa": "medusa.safetensors", "draft": "model.safetensors"}
COMMON = [
    "dtype=float32", "training.per_device_train_batch_size=2", "training.logging_steps=1", "training.max_steps=4",
    "training.learning_rate=1e-2", "training.warmup_steps=0", "training.disable_tqdm=true",
]  # fmt: skip
STREAMS = ["training.num_streams=3", "training.num_msa_layers=2", "lora.r=4"]


@pytest.fixture(scope="module")
def shelf(tmp_path_factory):
    """A base, data and a trained adapter."""
    folder = tmp_path_factory.mktemp("shelf")
    save_tiny_base(folder / "base")
    save_rows(folder / "train.jsonl", rows(24))
    save_rows(folder / "validation.jsonl", rows(4, start=50))
    train(folder, "quickstart", *STREAMS, "--output", folder / "adapter")
    return folder


def arguments(shelf, recipe, *extra):
    files = [f"base={shelf / 'base'}", f"data.train={shelf / 'train.jsonl'}"]
    files += [f"data.validation={shelf / 'validation.jsonl'}"]
    return [str(word) for word in (recipe, *files, *COMMON, *extra)]


def train(shelf, recipe, *extra):
    """The parsed facts of one run; errors of the command pass through."""
    result = CliRunner().invoke(command, [*arguments(shelf, recipe, *extra), "--json"], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def settings_for(shelf, method):
    """Recipe and overrides of one method over the tiny base."""
    return {
        "lora": ["quickstart", "method=lora", *STREAMS],
        "medusa": ["peers/medusa_sql", f"adapter={shelf / 'adapter'}", "medusa.num_heads=2"],
        "draft": ["peers/draft_sql", "draft.num_layers=2"],
    }[method]


def test_the_parts_are_those_that_the_comparison_looks_for():
    assert {getattr(training_method(name), "part", "") for name in method_names()} == {"", *PARTS}


@pytest.mark.parametrize("method", PEERS)
def test_a_run_writes_its_folder_and_cleans_up(shelf, tmp_path, method):
    target = tmp_path / "peers" / "adapter" / PEERS[method]
    facts = train(shelf, *settings_for(shelf, method), "--output", target)
    assert facts["method"] == method
    assert facts[{"lora": "adapter"}.get(method, method)] == str(target)
    assert facts["metrics"]["eval_loss"] > 0
    assert method_of(told_by(target)) == method
    provenance = json.loads((target / "provenance.json").read_text())
    assert (provenance["steps"], provenance["train_rows"], provenance["base"]["id"]) == (4, 24, "base")
    assert (target / WEIGHTS[method]).is_file()
    assert [p.name for p in target.parent.iterdir()] == [target.name]
    # The folder's own run.yaml is the same run.
    again = load_recipe(target / "run.yaml")
    assert again.method == method
    assert dump_recipe(again) == (target / "run.yaml").read_text()
    assert_loads(shelf, target, method)


def assert_loads(shelf, target, method):
    if method == "draft":
        draft, base = (AutoModelForCausalLM.from_pretrained(folder) for folder in (target, shelf / "base"))
        assert (draft.config.num_hidden_layers, base.config.num_hidden_layers) == (2, 4)
        assert draft.generation_config.eos_token_id == base.generation_config.eos_token_id
        vocabularies = [AutoTokenizer.from_pretrained(folder).get_vocab() for folder in (target, shelf / "base")]
        assert vocabularies[0] == vocabularies[1]
        inputs = {"input_ids": torch.tensor([[5, 6, 7]]), "attention_mask": torch.ones(1, 3, dtype=torch.long)}
        plain, assisted = (base.generate(**inputs, max_new_tokens=6, do_sample=False, assistant_model=assistant)
                           for assistant in (None, draft))  # fmt: skip
        assert plain.tolist() == assisted.tolist()
    elif method == "medusa":
        adapted = load_adapted(shelf / "adapter", str(shelf / "base"), dtype="float32", device="cpu")
        assert load_medusa(target, adapted).config.num_heads == 2
        made_for = json.loads((target / "provenance.json").read_text())["adapter"]
        assert made_for == {"name": "adapter", "weights_sha256": read_bundle(shelf / "adapter").weights_sha256}
    else:
        assert read_bundle(target).stream_config is None


@pytest.mark.parametrize("method", PEERS)
def test_an_interrupted_run_goes_on_to_the_same_weights(shelf, tmp_path, method, monkeypatch):
    words = [*settings_for(shelf, method), "training.save_steps=2", "training.save_total_limit=2"]
    train(shelf, *words, "--output", tmp_path / "whole")

    def stop(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("ssft.runs.train._write", stop)
        result = CliRunner().invoke(command, [*arguments(shelf, *words), "--output", str(tmp_path / "cut")])
    assert result.exit_code != 0
    # As if the run had been killed on its way from the second step to the fourth.
    last = tmp_path / "cut.run" / "checkpoint-4"
    (last / "complete").unlink()
    assert (tmp_path / "cut.run" / "checkpoint-2" / "complete").exists()
    assert not (tmp_path / "cut").exists()
    with pytest.raises(ConfigError, match=r"checkpoint-2 of an interrupted run; go on with it by --resume"):
        train(shelf, *words, "--output", tmp_path / "cut")
    with pytest.raises(ConfigError, match=r"run.yaml differs from what is given in .*seed \(not given then, 3 now\)"):
        train(shelf, *words, "training.seed=3", "--output", tmp_path / "cut", "--resume")
    train(shelf, *words, "--output", tmp_path / "cut", "--resume")
    whole, cut = (load_file(tmp_path / name / WEIGHTS[method]) for name in ("whole", "cut"))
    assert whole.keys() == cut.keys()
    assert all(torch.equal(whole[key], cut[key]) for key in whole)
    histories = [json.loads((tmp_path / name / "provenance.json").read_text())["history"] for name in ("whole", "cut")]
    losses = [{e["step"]: e["loss"] for e in history if "loss" in e} for history in histories]
    assert len(losses[0]) == 4
    assert losses[0] == losses[1]


@pytest.mark.parametrize("method", [*PEERS, "streams"])
def test_a_run_killed_after_its_last_step_takes_no_further_one(shelf, tmp_path, method, monkeypatch):
    words = ["quickstart", *STREAMS] if method == "streams" else settings_for(shelf, method)
    # In the middle of an epoch, and at a rate that does not end at zero.
    words = [*words, "training.max_steps=2", "training.save_steps=2", "training.lr_scheduler_type=constant"]
    train(shelf, *words, "--output", tmp_path / "whole")

    def stop(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("ssft.runs.train._write", stop)
        CliRunner().invoke(command, [*arguments(shelf, *words), "--output", str(tmp_path / "cut")])
    assert (tmp_path / "cut.run" / "checkpoint-2" / "complete").exists()
    train(shelf, *words, "--output", tmp_path / "cut", "--resume")
    assert json.loads((tmp_path / "cut" / "provenance.json").read_text())["steps"] == 2
    name = WEIGHTS.get(method, "streams.safetensors")
    whole, cut = (load_file(tmp_path / folder / name) for folder in ("whole", "cut"))
    assert all(torch.equal(whole[key], cut[key]) for key in whole)


@pytest.mark.parametrize(
    ("method", "counts"),
    [("lora", {"base", "lora"}), ("medusa", {"base", "lora", "heads"}), ("draft", {"draft", "trained"})],
)
def test_dry_run_shows_everything_and_trains_nothing(shelf, tmp_path, method, counts):
    facts = train(shelf, *settings_for(shelf, method), "--output", tmp_path / "out", "--dry-run")
    text = "".join(part["token"] for part in facts["example"] if part["loss"])
    assert text.endswith("done.<eos>")
    assert facts["recipe"]["method"] == method
    assert set(facts["parameters"]) == counts
    assert all(count > 0 for count in facts["parameters"].values())
    assert facts["estimate"]["steps"] == 4
    assert facts["estimate"]["seconds"] >= 0
    assert facts["estimate"]["memory_gib"] > 0
    assert not (tmp_path / "out").exists()
    shown = CliRunner().invoke(command, [*arguments(shelf, *settings_for(shelf, method)), "--dry-run"])
    assert shown.exit_code == 0
    assert "estimate.memory_gib" in shown.stdout


def test_dry_run_counts_of_a_draft(shelf):
    facts = train(shelf, *settings_for(shelf, "draft"), "--output", shelf / "x", "--dry-run")["parameters"]
    everything = train(shelf, *settings_for(shelf, "draft"), "draft.train_embeddings=true", "--dry-run")["parameters"]
    assert everything["trained"] == everything["draft"] == facts["draft"] > facts["trained"]


@pytest.mark.parametrize("method", PEERS)
def test_an_output_that_is_something_else_is_left_alone(shelf, tmp_path, method):
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(
        ConfigError, match=rf"exists and is no \w+ that method={method} wrote; .*Choose another folder with --output"
    ):
        train(shelf, *settings_for(shelf, method), "--output", tmp_path)
    assert (tmp_path / "thesis.txt").read_text() == "years of work"


def test_heads_need_an_adapter_of_this_base(shelf, tmp_path):
    with pytest.raises(BundleError, match="is no folder"):
        train(shelf, "peers/medusa_sql", f"adapter={tmp_path / 'gone'}")
    save_tiny_base(tmp_path / "other", hidden_size=32)
    with pytest.raises(BundleError, match="made for base 'base'"):
        train(shelf, "peers/medusa_sql", f"adapter={shelf / 'adapter'}", f"base={tmp_path / 'other'}")


def test_heads_over_a_lossless_adapter_read_the_bare_base(shelf, tmp_path, monkeypatch):
    lossless = tmp_path / "lossless"
    train(shelf, "quickstart", *STREAMS, "training.mode=lossless", "--output", lossless)
    seen = []
    main_states = MedusaTrainer._main_states

    def noted(trainer, inputs):
        seen.append((inputs, main_states(trainer, inputs)))
        return seen[-1][1]

    monkeypatch.setattr(MedusaTrainer, "_main_states", noted)
    words = ["peers/medusa_sql", f"adapter={lossless}", "--output", tmp_path / "heads"]
    assert train(shelf, *words, "--dry-run")["parameters"]["lora"] == 0
    train(shelf, *words)
    assert json.loads((tmp_path / "heads" / "medusa.json").read_text())["adapter"]["lora_sha256"] == ""
    inputs, states = seen[0]
    base = AutoModelForCausalLM.from_pretrained(shelf / "base").model
    with torch.no_grad():
        plain = base(inputs["input_ids"], attention_mask=inputs["attention_mask"]).last_hidden_state
    real = inputs["attention_mask"].bool()
    torch.testing.assert_close(states[real], plain[real], rtol=1e-4, atol=1e-5)


def test_a_draft_as_deep_as_the_base_is_refused(shelf):
    with pytest.raises(ConfigError, match=r"draft.num_layers=4: the base has 4 layers"):
        train(shelf, "peers/draft_sql", "draft.num_layers=4")


def test_a_recipe_in_a_folder_works_by_path(shelf):
    by_name = load_recipe("peers/medusa_sql")
    assert load_recipe(Path("recipes") / "peers" / "medusa_sql.yaml" if Path("recipes").is_dir()
                       else recipe_path("peers/medusa_sql")) == by_name  # fmt: skip
    assert str(default_output(by_name)) == "outputs/peers/sql/medusa"


def test_the_command_writes_where_the_comparison_looks(shelf, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    heads = train(shelf, *settings_for(shelf, "medusa"))
    assert heads["medusa"] == "outputs/peers/adapter/medusa"
    # The adapter's own run.yaml, whose name is that of its recipe.
    assert load_recipe(shelf / "adapter" / "run.yaml").name == "quickstart"
    twin = train(shelf, shelf / "adapter" / "run.yaml", "method=lora")
    assert twin["adapter"] == "outputs/peers/adapter/twin"
    adapted = load_adapted(shelf / "adapter", str(shelf / "base"), dtype="float32", device="cpu")
    methods = build_methods(["medusa"], Setting(adapted, 4, 1, peers_folder(Path("outputs/peers"), "adapter")))
    assert methods["medusa"].heads.config.num_heads == 2
    assert twin_folder(peers_folder(Path("outputs/peers"), "adapter")) == Path("outputs/peers/adapter/twin")


def interrupted_heads(shelf, tmp_path, monkeypatch):
    """The words of a run of heads that was killed in its last moment, over an adapter of its own."""
    adapter = tmp_path / "mine"
    shutil.copytree(shelf / "adapter", adapter)
    words = ["peers/medusa_sql", f"adapter={adapter}", "medusa.num_heads=2", "training.save_steps=2"]
    words += ["--output", tmp_path / "cut"]

    def stop(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("ssft.runs.train._write", stop)
        CliRunner().invoke(command, arguments(shelf, *words))
    assert (tmp_path / "cut.run" / "checkpoint-4" / "complete").exists()
    return words


def test_a_resumed_run_must_find_the_adapter_it_began_over(shelf, tmp_path, monkeypatch):
    words = interrupted_heads(shelf, tmp_path, monkeypatch)
    adapter = tmp_path / "mine"
    before = (adapter / "adapter_model.safetensors").read_bytes()
    change_tensor(adapter, "adapter_model.safetensors", lambda t: t * 1.5)
    message = r"run.yaml differs from what is given in the files of adapter='.*mine'; resume with the same"
    with pytest.raises(ConfigError, match=message):
        train(shelf, *words, "--resume")
    (adapter / "adapter_model.safetensors").write_bytes(before)
    held = (tmp_path / "cut.run" / "run.yaml").read_text().rpartition("# adapter: ")[2].strip()
    train(shelf, *words, "--resume")
    assert json.loads((tmp_path / "cut" / "medusa.json").read_text())["adapter"]["lora_sha256"] == held


def test_a_finished_run_does_not_need_the_adapter_s_files_again(shelf, tmp_path, monkeypatch):
    adapter = tmp_path / "mine"
    shutil.copytree(shelf / "adapter", adapter)
    write = run_train._write

    def remove_first(*words):
        shutil.rmtree(adapter)
        return write(*words)

    monkeypatch.setattr("ssft.runs.train._write", remove_first)
    train(shelf, "peers/medusa_sql", f"adapter={adapter}", "medusa.num_heads=2", "--output", tmp_path / "heads")
    kept = load_adapted(shelf / "adapter", str(shelf / "base"), dtype="float32", device="cpu")
    assert load_medusa(tmp_path / "heads", kept).config.num_heads == 2


@pytest.mark.parametrize("method", PEERS)
def test_what_was_put_at_the_output_during_the_run_is_left_alone(shelf, tmp_path, method, monkeypatch):
    target = tmp_path / "out"
    write = run_train._write

    def somebody_else(*words):
        target.mkdir()
        (target / "thesis.txt").write_text("years of work")
        return write(*words)

    words = [*settings_for(shelf, method), "--output", target]
    with monkeypatch.context() as patch:
        patch.setattr("ssft.runs.train._write", somebody_else)
        with pytest.raises(
            ConfigError, match=rf"out exists and is no \w+ that method={method} wrote.*goes on with --resume"
        ):
            train(shelf, *words)
    assert [p.name for p in target.iterdir()] == ["thesis.txt"]
    # The work is not lost.
    target.rename(tmp_path / "elsewhere")
    train(shelf, *words, "--resume")
    assert method_of(told_by(target)) == method
