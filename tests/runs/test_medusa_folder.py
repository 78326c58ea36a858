"""The folder of Medusa heads as a run writes it, and the method of `ssft bench` that reads it."""

import json
import os
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from adapter_folders import change_json, change_tensor
from conftest import random_ids
from fake_adapted import save_bundle
from safetensors.torch import load_file, save_file
from tiny_base import save_tiny_base, tiny_tokenizer

from ssft.bench.methods import Setting, build_methods
from ssft.decoding.draft.medusa_heads import MedusaConfig, MedusaHeads
from ssft.errors import BundleError, ConfigError
from ssft.recipes.recipe import Recipe
from ssft.runs.medusa_folder import CONFIG, WEIGHTS, load_medusa, lora_sha256
from ssft.runs.methods import training_method
from ssft.runs.run import PreparedRun
from ssft.runtime.loader import load_adapted

HIDDEN = 64


def load(tmp_path, architecture="llama", name="sql", **options):
    """A tiny base with one adapter, from files, as every command loads it."""
    base = save_tiny_base(tmp_path / f"base_{architecture}", architecture)
    folder = tmp_path / name
    if not folder.exists():
        save_bundle(folder, base)
    return load_adapted(folder, str(base), dtype="float32", device="cpu", **options)


def random_heads(adapted, **settings):
    torch.manual_seed(5)
    heads = MedusaHeads.from_base(MedusaConfig(**settings), adapted.hooks.backbone.head)
    for parameter in heads.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return heads


def save(folder, heads, adapted, made_over=None):
    """What a run with method=medusa writes."""
    run = PreparedRun(
        model=adapted.model,
        tokenizer=adapted.tokenizer,
        fingerprint={"id": "base"},
        adapted=adapted,
        adapter_sha256=made_over or lora_sha256(adapted),
        recipe=Recipe(method="medusa"),
        args=None,
        train=None,
        validation=None,
        run_yaml="seed: 1\n",
    )
    training_method("medusa").write(run, SimpleNamespace(heads=heads), {"method": "medusa", "steps": 7}, folder)
    return folder


@pytest.fixture
def saved(tmp_path):
    """(adapted model, folder of its heads, the heads)."""
    adapted = load(tmp_path)
    heads = random_heads(adapted, num_heads=3, num_layers=2)
    return adapted, save(tmp_path / "peers" / "sql" / "medusa", heads, adapted), heads


# --- the folder ---


def test_what_is_saved_is_what_is_loaded(saved):
    adapted, folder, heads = saved
    loaded = load_medusa(folder, adapted)
    assert loaded.config == heads.config
    states = torch.randn(4, HIDDEN)
    assert torch.equal(loaded(states), heads(states))
    assert not any(p.requires_grad for p in loaded.parameters())
    assert sorted(p.name for p in folder.iterdir()) == [CONFIG, WEIGHTS, "provenance.json", "run.yaml"]
    provenance = json.loads((folder / "provenance.json").read_text())
    assert provenance == {
        "method": "medusa",
        "steps": 7,
        "base": {"id": "base"},
    }
    assert (folder / "run.yaml").read_text() == "seed: 1\n"
    assert [p.name for p in folder.parent.iterdir()] == ["medusa"]  # nothing is left of the scratch folder


def test_heads_are_kept_in_the_type_the_base_computes_in(tmp_path):
    adapted = load(tmp_path)
    adapted.model.to(torch.bfloat16)
    folder = save(tmp_path / "medusa", random_heads(adapted), adapted)
    assert {t.dtype for t in load_file(folder / WEIGHTS).values()} == {torch.bfloat16}
    assert next(load_medusa(folder, adapted).parameters()).dtype == torch.bfloat16


def test_saving_again_replaces_the_heads(saved):
    adapted, folder, _ = saved
    save(folder, random_heads(adapted, num_heads=1), adapted)
    assert load_medusa(folder, adapted).config.num_heads == 1


def test_a_failed_save_leaves_the_old_heads(saved):
    adapted, folder, heads = saved
    broken = random_heads(adapted)
    with torch.no_grad():
        next(broken.parameters()).fill_(torch.nan)
    with pytest.raises(BundleError, match="NaN"):
        save(folder, broken, adapted)
    states = torch.randn(4, HIDDEN)
    assert torch.equal(load_medusa(folder, adapted)(states), heads(states))
    assert [p.name for p in folder.parent.iterdir()] == ["medusa"]


def test_a_folder_of_something_else_is_not_replaced(saved, tmp_path):
    adapted, _, heads = saved
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "mine.txt").write_text("mine")
    with pytest.raises(
        ConfigError, match=r"notes exists and is no medusa that method=medusa wrote; nothing there was changed"
    ):
        save(tmp_path / "notes", heads, adapted)
    assert (tmp_path / "notes" / "mine.txt").read_text() == "mine"


def test_an_adapter_that_changed_on_disk_is_not_what_the_heads_were_trained_over(saved, tmp_path):
    adapted, folder, _ = saved
    change_tensor(tmp_path / "sql", "adapter_model.safetensors", lambda t: t + 1)
    with pytest.raises(BundleError, match=r"sql: changed since it was loaded.*load it again"):
        lora_sha256(adapted)
    with pytest.raises(BundleError, match=r"sql: changed since it was loaded.*load it again"):
        load_medusa(folder, adapted)


def test_the_hash_from_the_start_of_a_run_spares_the_adapter_s_files(saved, tmp_path):
    adapted, folder, heads = saved
    before = lora_sha256(adapted)
    change_tensor(tmp_path / "sql", "adapter_model.safetensors", lambda t: t + 1)
    save(folder, heads, adapted, before)
    assert json.loads((folder / CONFIG).read_text())["adapter"]["lora_sha256"] == before


def test_touched_files_are_still_the_adapter(saved, tmp_path):
    adapted, folder, _ = saved
    for file in (tmp_path / "sql").iterdir():
        os.utime(file, (1, 1))
    assert load_medusa(folder, adapted).config.num_heads == 3


def test_heads_over_a_lossless_adapter_are_those_of_the_bare_base(tmp_path):
    save_bundle(tmp_path / "own", save_tiny_base(tmp_path / "base_llama", "llama"), mode="lossless")
    adapted = load(tmp_path, name="own")
    heads = random_heads(adapted, num_heads=2)
    folder = save(tmp_path / "peers" / "own" / "medusa", heads, adapted)
    assert json.loads((folder / CONFIG).read_text())["adapter"] == {"name": "own", "lora_sha256": ""}
    method = build_methods(["medusa"], Setting(adapted, 8, 1, folder.parent))["medusa"]
    assert torch.equal(method.heads(torch.ones(1, HIDDEN)), heads(torch.ones(1, HIDDEN)))
    # Under another's LoRA the main state is another.
    with pytest.raises(BundleError, match="trained over another LoRA, that of 'own'"):
        load_medusa(folder, load(tmp_path))


def test_another_draft_tree_leaves_the_heads_right(saved, tmp_path):
    _, folder, _ = saved
    settings = json.loads((tmp_path / "sql" / "ssft_config.json").read_text())
    settings["tree"]["max_nodes"] = 5
    (tmp_path / "sql" / "ssft_config.json").write_text(json.dumps(settings))
    again = load_adapted(tmp_path / "sql", str(tmp_path / "base_llama"), dtype="float32", device="cpu")
    assert again.active.tree.max_nodes == 5
    assert load_medusa(folder, again).config.num_heads == 3


def test_heads_of_another_adapter_are_refused(saved, tmp_path):
    _, folder, _ = saved
    other = tmp_path / "other"
    other.mkdir()
    for file in (tmp_path / "sql").iterdir():
        (other / file.name).write_bytes(file.read_bytes())
    change_tensor(other, "adapter_model.safetensors", lambda t: t * 1.5)
    second = load_adapted(other, str(tmp_path / "base_llama"), dtype="float32", device="cpu")
    with pytest.raises(
        BundleError, match=r"trained over another LoRA, that of 'sql' as it was then.*train heads for this one"
    ):
        load_medusa(folder, second)


def test_heads_of_another_base_are_refused(saved, tmp_path):
    _, folder, _ = saved
    with pytest.raises(BundleError, match=r"made for base 'base_llama', whose architecture.*not that of 'base_opt'"):
        load_medusa(folder, load(tmp_path, "opt", name="opt_adapter"))


def nothing_left(path):
    path.unlink()


def truncate(path):
    path.write_bytes(path.read_bytes()[:-40])


@pytest.mark.parametrize(
    ("name", "damage", "message"),
    [
        (CONFIG, nothing_left, "medusa.json: missing"),
        (WEIGHTS, nothing_left, "medusa.safetensors: missing"),
        (CONFIG, truncate, "medusa.json: not readable as JSON"),
        (WEIGHTS, truncate, "medusa.safetensors: no valid safetensors file"),
    ],
)
def test_a_damaged_folder_is_refused(saved, name, damage, message):
    adapted, folder, _ = saved
    damage(folder / name)
    with pytest.raises(BundleError, match=message):
        load_medusa(folder, adapted)


MEDUSA = {"num_heads": 3, "num_layers": 2, "loss_decay": 0.8}
BASE = {"id": "\x1b" + "z" * 999, "architecture": "\x1b" + "y" * 999, "config_sha256": "", "tokenizer_sha256": ""}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format_version": 2}, "medusa.json: format_version=2, expected 1"),
        ({"format_version": True}, "format_version=True, expected 1"),
        ({"format_version": 1.0}, r"format_version=1\.0, expected 1"),
        ({"format_version": "\x1b[2J" + "x" * 999}, r"format_version='\\x1b\[2Jx{1,80}\.\.\., expected 1"),
        ({"medusa": None}, "'medusa' is missing or no object"),
        ({"medusa": {**MEDUSA, "heads": 3}}, "medusa.heads is unknown .* did you mean 'num_heads'"),
        ({"medusa": {**MEDUSA, "\x1b" + "y" * 999: 3}}, r"medusa.'\\x1by{1,80}\.\.\. is unknown"),
        ({"medusa": {**MEDUSA, "num_layers": "\x1b" + "y" * 999}}, r"num_layers='\\x1by{1,80}\.\.\., expected int"),
        ({"medusa": {**MEDUSA, "num_heads": 10**999}}, r"medusa.num_heads=10{1,200}$"),
        ({"medusa": {**MEDUSA, "num_heads": "3"}}, "medusa.num_heads='3', expected int"),
        ({"medusa": {**MEDUSA, "num_heads": 10**9}}, "medusa.json: medusa.num_heads=1000000000: must lie"),
        ({"medusa": {**MEDUSA, "num_heads": 4}}, r"holds .*heads.3.* None.*, but medusa.json and the base need"),
        ({"medusa": {**MEDUSA, "num_layers": 1}}, r"holds .*heads.0.blocks.1.* need .*None"),
        ({"base": []}, r"base=\[\], expected dict"),
        (
            {"base": {**BASE, "architecture": ["\x1b"] * 999}},
            r"base\['architecture'\]=\['\\x1b', .{1,80}\.\.\., expected str",
        ),
        ({"base": BASE}, r"made for base '\\x1bz{1,80}\.\.\., whose architecture \('\\x1byyy.{1,18}\) is not"),
        ({"adapter": {}}, "trained over another LoRA, that of None"),
        ({"adapter": {"name": "x", "lora_sha256": ""}}, "trained over another LoRA"),
    ],
)
def test_a_config_that_does_not_fit_is_refused(saved, changes, message):
    adapted, folder, _ = saved
    change_json(folder, CONFIG, **changes)
    with pytest.raises(BundleError, match=message):
        load_medusa(folder, adapted)


def test_a_tensor_of_another_shape_is_refused(saved):
    adapted, folder, _ = saved
    tensors = load_file(folder / WEIGHTS)
    tensors["heads.1.output.weight"] = tensors["heads.1.output.weight"][:-1].contiguous()
    save_file(tensors, folder / WEIGHTS)
    vocabulary = len(tiny_tokenizer())
    message = rf"holds .*heads.1.output.weight': \({vocabulary - 1}, 64\).*need .*\({vocabulary}, 64\)"
    with pytest.raises(BundleError, match=message):
        load_medusa(folder, adapted)


def test_numbers_beyond_the_base_s_type_are_refused(saved):
    adapted, folder, _ = saved
    tensors = {key: value.double() for key, value in load_file(folder / WEIGHTS).items()}
    tensors["heads.0.output.weight"][0, 0] = 1e300
    save_file(tensors, folder / WEIGHTS)
    with pytest.raises(BundleError, match=r"holds values beyond the range of float32"):
        load_medusa(folder, adapted)


# --- the method ---


def prompts():
    return [random_ids(1, length, seed=length)[0].tolist() for length in (7, 3, 5)]


@pytest.mark.parametrize("architecture", ["llama", "opt"])
@pytest.mark.parametrize("merge", [False, True], ids=["lora", "merged"])
@pytest.mark.parametrize("batch_size", [1, 2])
def test_the_method_gives_the_plain_text(tmp_path, architecture, merge, batch_size):
    adapted = load(tmp_path, architecture, merge=merge)
    heads = MedusaHeads.from_base(MedusaConfig(), adapted.hooks.backbone.head)
    save(tmp_path / "peers" / "medusa", heads, adapted)
    methods = build_methods(["plain", "medusa"], Setting(adapted, 20, batch_size, tmp_path / "peers"))
    plain, found = (methods[name].run(prompts()) for name in ("plain", "medusa"))
    assert [r.token_ids for r in found] == [r.token_ids for r in plain]
    assert sum(r.calls for r in found) < sum(r.calls for r in plain)
    assert methods["medusa"].extra_parameters == heads.count()
    assert methods["medusa"].extra_bytes == (tmp_path / "peers" / "medusa" / WEIGHTS).stat().st_size


def test_the_method_drafts_from_states_with_the_lora(saved, tmp_path, monkeypatch):
    """What the heads read is what the base's head reads while the LoRA acts, not the bare base's state."""
    adapted, folder, _ = saved
    method = build_methods(["medusa"], Setting(adapted, 2, 1, folder.parent))["medusa"]
    seen = []
    monkeypatch.setattr(method.heads, "forward", lambda states: seen.append(states) or torch.zeros(1, 3, 97))
    (prompt, *_) = prompts()
    method.run([prompt])
    ids = torch.tensor([prompt])
    with torch.no_grad(), adapted.applied():
        expected = adapted.hooks.backbone.decoder(input_ids=ids).last_hidden_state[0, -1]
    with torch.no_grad():
        bare = adapted.hooks.backbone.decoder(input_ids=ids).last_hidden_state[0, -1]
    torch.testing.assert_close(seen[0][0], expected, atol=1e-5, rtol=1e-5)
    assert (expected - bare).abs().max() > 0.05


@pytest.mark.parametrize("peers", [None, Path("nowhere")])
def test_an_adapter_without_heads_is_told_how_to_make_them(tmp_path, peers):
    adapted = load(tmp_path)
    message = r"'sql' has no Medusa heads.*ssft train peers/medusa_sql adapter=.*--output .*medusa"
    with pytest.raises(ConfigError, match=message):
        build_methods(["medusa"], Setting(adapted, 8, 1, peers))
