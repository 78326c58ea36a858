"""The adapters that ship: by which names they are found, and what every one of them must be."""

import re
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner
from embedded_base import BASE, needs_base
from tiny_base import rows, save_rows

from examples import switch_tasks
from ssft.base.named import EMBEDDED
from ssft.bundle import shipped
from ssft.bundle.format import BUNDLE_FILES, CARD, DRAFT_VOCABULARY, RUN, STREAM_LORA_CONFIG, STREAM_LORA_WEIGHTS
from ssft.bundle.hub import pull, resolve_adapter
from ssft.bundle.read import read_bundle
from ssft.bundle.shipped import local_adapter, shipped_adapters
from ssft.card.results import read_results
from ssft.card.rows import rows_of
from ssft.card.write import card_files, card_text
from ssft.cli.main import cli
from ssft.errors import BundleError
from ssft.hub import push
from ssft.recipes.recipe import load_recipe, recipe_names
from ssft.runtime.loader import load_adapted

ROOT = Path(__file__).parents[2]


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A stand-in for the package's folder; the test says what lies in and beside it."""
    monkeypatch.setattr(shipped, "__file__", str(tmp_path / "ssft" / "adapters" / "shipped.py"))
    return tmp_path / "ssft"


def make(folder):
    folder.mkdir(parents=True)
    (folder / "adapter_config.json").touch()
    return folder


def test_a_source_tree_has_them_beside_the_package(package):
    folder = make(package.parent / "adapters" / "sql")
    (package.parent / "adapters" / "README.md").touch()
    assert shipped_adapters() == {"adapters/sql": folder}


def test_a_wheel_has_them_inside_the_package(package):
    make(package.parent / "adapters" / "somebody_elses")
    folder = make(package / "_adapters" / "sql")
    assert shipped_adapters() == {"adapters/sql": folder}


def test_they_are_found_from_any_working_folder(package, tmp_path, monkeypatch):
    folder = make(package / "_adapters" / "sql")
    monkeypatch.chdir(make(tmp_path / "elsewhere"))
    assert resolve_adapter("adapters/sql") == folder
    assert resolve_adapter(Path("adapters/sql")) == folder
    assert local_adapter("sql") is None  # a name alone is nobody's


def test_a_folder_here_comes_first(package, tmp_path, monkeypatch):
    make(package / "_adapters" / "sql")
    make(tmp_path / "elsewhere" / "adapters" / "sql")
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert resolve_adapter("adapters/sql") == Path("adapters/sql")


def test_the_refusal_names_those_that_ship(package):
    make(package / "_adapters" / "sql")
    make(package / "_adapters" / "e2e_nlg")
    with pytest.raises(BundleError, match=r"comes with ssft \(adapters/e2e_nlg, adapters/sql\)"):
        resolve_adapter("sql")


# --- what lies under adapters/ ---

NAMES = ("adapters/chat", "adapters/dialogsum", "adapters/e2e_nlg", "adapters/sql")
RECIPES = {
    "adapters/chat": "chat_lossless",
    "adapters/dialogsum": "dialogsum_streams",
    "adapters/e2e_nlg": "e2e_nlg_streams",
    "adapters/sql": "sql_streams",
}
PROMPTS_VERIFIED = {"adapters/chat": 120, "adapters/dialogsum": 100, "adapters/e2e_nlg": 66, "adapters/sql": 100}
# With 32 nodes at most.
TOKENS_PER_CALL = {"adapters/chat": 2.0, "adapters/dialogsum": 2.0, "adapters/e2e_nlg": 2.8, "adapters/sql": 3.8}
PROMPTS = {f"adapters/{name}": prompt for name, prompt in switch_tasks.PROMPTS.items()}


def test_these_ship():
    assert tuple(shipped_adapters()) == NAMES


@pytest.fixture(params=NAMES)
def name(request):
    return request.param


@pytest.fixture
def bundle(name):
    return read_bundle(ROOT / name)


def test_it_is_small_and_whole(bundle):
    files = {path.name: path.stat().st_size for path in bundle.path.iterdir()}
    assert sum(files.values()) <= 6_000_000
    absent = {STREAM_LORA_CONFIG, STREAM_LORA_WEIGHTS} if len(bundle.loras) == 1 else set()
    absent |= {DRAFT_VOCABULARY} if bundle.draft_vocabulary is None else set()
    assert set(files) == set(BUNDLE_FILES) - absent
    assert bundle.base["id"] == bundle.base_name == BASE
    # AutoPeftModel, vLLM and others ask the hub for this.
    assert {part.config["base_model_name_or_path"] for part in bundle.loras} == {EMBEDDED[BASE].hub_id}
    assert bundle.stream_config is not None


def test_its_run_can_be_run_again_anywhere(name, bundle):
    """The data are named without machine paths, and a LoRA that was kept is the one that the bundle itself holds."""
    recipe = load_recipe(bundle.path / RUN)
    assert (recipe.name, recipe.method) == (load_recipe(RECIPES[name]).name, "streams")
    assert recipe.name in recipe_names()
    # Without a file for validation a share of the training rows is held back.
    for part in ("train", "validation") if recipe.data.validation else ("train",):
        source = Path(getattr(recipe.data, part))
        assert not source.is_absolute()
        assert ".." not in source.parts
        assert bundle.provenance["data"][part]["name"] == source.name
        assert re.fullmatch(r"[0-9a-f]{64}", bundle.provenance["data"][part]["sha256"])
    assert re.fullmatch(r"[0-9a-f]{40}", bundle.provenance["commit"])
    if bundle.text_lora is None:
        assert (recipe.adapter, bundle.provenance.get("adapter")) == ("", None)
    else:
        assert re.fullmatch(r"[0-9a-f]{64}", bundle.provenance["adapter"]["weights_sha256"])
        assert recipe.adapter == name


def test_its_card_shows_a_prompt_of_the_form_that_a_row_gets(name, bundle):
    example = bundle.provenance["example"]
    if bundle.provenance["form"] == "messages":
        question, answer = example["messages"]
        assert (question["role"], answer["role"]) == ("user", "assistant")
        assert f"ssft generate {name} --chat" in card_text(bundle)
        return
    before, *columns, after = re.split(r"\{(\w+)\}", load_recipe(bundle.path / RUN).data.prompt_template)
    assert example["prompt"].startswith(before)
    assert example["prompt"].endswith(after)
    assert re.search(rf"ssft generate {name} --row '\{{.*\"{columns[-1]}\": \"…\"", card_text(bundle))
    assert f"```text\n{example['prompt']}" in card_text(bundle)


def test_its_recipe_is_what_made_it(name, bundle):
    made, recipe = load_recipe(bundle.path / RUN), load_recipe(RECIPES[name])
    assert recipe.adapter == ("" if bundle.text_lora is None else f"outputs/start/{bundle.path.name}")
    for run in (made, recipe):
        run.data.train = run.data.validation = run.adapter = ""
        run.training["num_msa_layers"] = run.stream_config(num_layers=30).num_msa_layers
    assert made == recipe


def test_its_card_is_what_the_command_writes(bundle):
    text, kept = card_text(bundle), (bundle.path / CARD).read_text(encoding="utf-8")
    assert kept.startswith(text)


def test_its_card_shows_identity_speed_and_the_twin(name, bundle):
    results = read_results(bundle)
    assert not results.stale
    assert results.about.license
    rows = rows_of(results, bundle)
    verified = [row for row in rows.speed if row.source == "verify" and row.precision == "float32"]
    assert sum(row.rows for row in verified) >= PROMPTS_VERIFIED[name]
    assert all(row.identical == row.rows for row in verified)
    assert max(row.tokens / row.calls for row in verified) >= TOKENS_PER_CALL[name]
    assert any(row.speedup for row in rows.speed if row.method == "streaming")
    assert bool(rows.quality) == (bundle.text_lora is not None)  # the base's own text needs no comparison
    for row in rows.quality:
        # Not under the plain LoRA beyond the noise of the paired difference.
        assert row.difference_interval is not None
        assert row.difference_interval[1] >= 0


@needs_base
@pytest.mark.slow
def test_its_run_begins_from_the_lora_that_it_kept(bundle, tmp_path, monkeypatch):
    """From any working folder, without the adapter that only its trainer had; other starts are told to be absent."""
    monkeypatch.chdir(tmp_path)
    save_rows(tmp_path / "train.jsonl", rows(4))
    save_rows(tmp_path / "validation.jsonl", rows(2))
    words = ["data.train=train.jsonl", "data.validation=validation.jsonl", "--dry-run"]
    result = CliRunner().invoke(cli, ["train", str(bundle.path / RUN), *words])
    kept = len(bundle.loras) > 1 or bundle.text_lora is None
    assert result.exit_code == (0 if kept else 2)
    assert kept or f"adapter 'outputs/start/{bundle.path.name}' is no folder" in result.output


def test_it_travels_to_a_hub_and_back_byte_by_byte(bundle, hub):
    push(bundle.path, "alice/shipped")
    pulled = pull("alice/shipped")
    own, back = ({path.name: path.read_bytes() for path in place.iterdir()} for place in (bundle.path, pulled.path))
    # The card on the hub names the repository.
    assert back == own | card_files(bundle, "alice/shipped")
    assert b"ssft generate alice/shipped " in back[CARD]


@needs_base
@pytest.mark.slow
def test_it_decodes_its_task_in_fewer_passes(name):
    adapted = load_adapted(ROOT / name, dtype="float32", device="cpu")
    # A fixed tree: how many nodes pay depends on the machine and on what else it does.
    adapted.active.tree = replace(adapted.active.tree, budget="fixed", max_nodes=32)
    ids = adapted.encode({"prompt": PROMPTS[name]})
    plain, fast = (adapted.complete([ids], max_new_tokens=48, speculate=speculate)[0] for speculate in (False, True))
    assert fast.token_ids == plain.token_ids
    assert len(fast.token_ids) > 1.3 * fast.calls
    if name == "adapters/sql":
        assert adapted.decode(fast.token_ids).startswith("SELECT")
