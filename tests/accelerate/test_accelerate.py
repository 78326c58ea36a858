"""`ssft accelerate`: the whole chain on a tiny base; killed it goes on, and short of time it says so."""

import json
import shutil

import pytest
import torch
from click.testing import CliRunner
from shelf import save_adapter
from tiny_base import TEMPLATE, rows, save_rows, save_tiny_base

from ssft.accelerate.accelerate import Acceleration
from ssft.accelerate.plan import SHAPES, enough, steps_in
from ssft.accelerate.stages import Stages
from ssft.bundle.read import read_bundle
from ssft.card.results import read_results
from ssft.cli.main import cli
from ssft.distill.talk import Talker
from ssft.errors import ConfigError
from ssft.training.callbacks import MarkComplete

SETTINGS = ["training.per_device_train_batch_size=2", "training.disable_tqdm=true", "training.save_steps=1"]
SETTINGS += ["training.measure_steps=0", "training.max_length=400", "training.max_steps=4"]
FAST = ["--max-new-tokens", "60", "--batch-size", "3", "--dtype", "float32", "--minutes", "10"]


@pytest.fixture(scope="module")
def shelf(tmp_path_factory):
    """A base whose turns end with its end-of-sequence token, a plain LoRA over it, and prompts."""
    folder = tmp_path_factory.mktemp("accelerate")
    save_tiny_base(folder / "base")
    (folder / "base" / "chat_template.jinja").write_text(TEMPLATE.replace("'\n' }}", "'<eos>' }}"))
    save_adapter(folder / "plain", folder / "base")
    save_rows(folder / "prompts.jsonl", rows(12))
    chats = [[{"role": "user", "content": f"what is {i}?"}] for i in range(9)]
    save_rows(folder / "chats.jsonl", [{"messages": chat} for chat in chats])
    return folder


def run(shelf, output, *more, settings=SETTINGS, data="chats.jsonl"):
    more = [*more, *["--data", data] * (data is not None)]
    words = [str(shelf / word) if word in ("plain", "prompts.jsonl", "chats.jsonl") else word for word in more]
    return CliRunner().invoke(
        cli, ["accelerate", str(shelf / "base"), *settings, "--output", str(output), *FAST, *words]
    )


@pytest.fixture(scope="module")
def whole(shelf):
    done = run(shelf, shelf / "whole")
    assert done.exit_code == 0, done.output
    return done.stdout


def test_all_stages_say_what_they_found(shelf, whole):
    names = [line.partition(":")[0] for line in whole.splitlines() if not line.startswith((" ", "try"))]
    assert names == ["distil", "train", "verify", "tune", "card"]
    bundle = read_bundle(shelf / "whole" / "adapter")
    assert bundle.stream_config.mode == "lossless"
    assert (bundle.stream_config.num_streams, bundle.stream_config.num_msa_layers) == (4, 2)
    (result,) = read_results(bundle).results
    assert (result.identical, result.differences) == (result.rows, [])
    assert "texts are those of plain decoding" in whole
    assert 2 <= len((shelf / "whole" / "distilled.jsonl").read_text().splitlines()) <= 9


def test_what_is_done_is_not_done_again(shelf, whole, monkeypatch):
    monkeypatch.setattr("ssft.runtime.loader.load_adapted", None)  # nothing is loaded
    done = run(shelf, shelf / "whole")
    assert done.exit_code == 0, done.output
    assert done.stdout.count("done before") == 5


def test_another_setting_does_its_stage_again_and_those_behind_it(shelf, whole, tmp_path):
    """Only the training has another input, and all that is made of its adapter."""
    folder = shutil.copytree(shelf / "whole", tmp_path / "copy")
    done = run(shelf, folder, settings=[*SETTINGS, "training.learning_rate=1e-3"])
    assert done.exit_code == 0, done.output
    assert done.stdout.count("done before") == 1
    assert "distil: done before" in done.stdout
    before, after = (read_bundle(path / "adapter").weights_sha256 for path in (shelf / "whole", folder))
    assert before != after


def test_killed_in_every_stage_it_ends_with_the_same_adapter(shelf, whole, tmp_path, monkeypatch):
    folder = tmp_path / "cut"
    answered, saved = Talker.rows, MarkComplete.on_save
    count = [0]

    def killed_talk(self, *arguments):
        count[0] += 1
        if count[0] == 2:
            raise KeyboardInterrupt
        return answered(self, *arguments)

    def killed_save(self, args, state, control, **keywords):
        saved(self, args, state, control, **keywords)
        if state.global_step == 2:
            raise KeyboardInterrupt

    def killed(*_, **__):
        raise KeyboardInterrupt

    for target, name, replacement in (
        (Talker, "rows", killed_talk),
        (MarkComplete, "on_save", killed_save),
        (Acceleration, "_verify", killed),
        (Acceleration, "_card", killed),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(target, name, replacement)
            done = run(shelf, folder)
        assert done.exit_code == 1, done.output
        assert "the same command goes on" in done.stderr
    assert run(shelf, folder).exit_code == 0
    for name in ("distilled.jsonl", "adapter/streams.safetensors", "adapter/run.yaml"):
        found, expected = ((place / name).read_bytes() for place in (folder, shelf / "whole"))
        assert found.replace(str(folder).encode(), b"") == expected.replace(str(shelf / "whole").encode(), b"")


def test_a_lora_of_anybodys_keeps_its_text(shelf, tmp_path):
    short = ["--minutes", "0.0001", "--batch-size", "10", "--json"]
    done = run(shelf, tmp_path / "fast", "--adapter", "plain", *short, data="prompts.jsonl")
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    assert "cut off by the time, of 12 wanted" in told["distil"]["found"]
    assert "1 steps" in told["train"]["found"]
    assert "cut off by the time, of 4 steps" in told["train"]["found"]
    bundle = read_bundle(tmp_path / "fast" / "adapter")
    kept = read_bundle(shelf / "plain")
    assert len(bundle.loras) == 2
    assert bundle.text_lora.weights.keys() == kept.text_lora.weights.keys()
    for name, tensor in kept.text_lora.weights.items():
        assert torch.equal(bundle.text_lora.weights[name], tensor)


def test_too_few_rows_are_an_error_that_names_the_knob(shelf, tmp_path):
    done = run(shelf, tmp_path / "none", "--limit", "1")
    assert done.exit_code == 2
    assert "training needs two rows at least: give more --minutes" in done.stderr


def test_a_strangers_folder_is_left_alone(tmp_path):
    (tmp_path / "a.txt").write_text("mine")
    with pytest.raises(ConfigError, match="is not what `ssft accelerate` began; choose another --output"):
        Stages(tmp_path, print)
    (tmp_path / "stages.json").write_text("{")
    with pytest.raises(ConfigError, match=r"cannot be read .*remove it to do all stages again"):
        Stages(tmp_path, print)
    (tmp_path / "stages.json").write_text("[1]")
    with pytest.raises(ConfigError, match="does not tell of stages"):
        Stages(tmp_path, print)


def test_steps_fill_the_time_and_no_more_than_the_rows_are_good_for():
    assert steps_in(100, 0.5, rows=1000, batch=2) == 200
    assert steps_in(100, 0.5, rows=10, batch=2) == 40
    assert steps_in(0, 0.5, rows=10, batch=2) == 3
    assert enough(200, 1000, 2)
    assert not enough(199, 1000, 2)
    assert enough(40, 10, 2)
    assert [shape.num_streams for shape in SHAPES] == [4, 3, 2]


def test_without_prompts_the_model_asks_itself(shelf, tmp_path, monkeypatch):
    asked = {}

    def distill(adapted, output, how, **more):
        asked.update(turns=how.turns, seed=how.seed, **more)
        raise KeyboardInterrupt

    monkeypatch.setattr("ssft.accelerate.accelerate.distill", distill)
    run(shelf, tmp_path / "own", "--questions", "7", "--turns", "2", "--seed", "3", data=None)
    assert (asked["starts"], asked["questions"], asked["turns"], asked["seed"]) == (None, 7, 2, 3)
