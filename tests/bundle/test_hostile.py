"""A bad adapter is a named error and nothing else: the running model says the same before and after."""

import ctypes
import json
import os
import shutil
import socket
import subprocess
import sys
import threading
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from hostile import VARIANTS
from pickles import pickled
from safetensors.torch import load_file, save_file
from shelf import shared_shelf
from spoiling import CONFIG, LORA, PROVENANCE, SETTINGS, STREAMS, lora, section

from ssft.bundle import lora_config as _lora_config
from ssft.bundle.fit import check_fit
from ssft.bundle.read import read_bundle, read_outline
from ssft.errors import BundleError
from ssft.runtime.loader import load_adapted
from ssft.runtime.model import MultiAdapterModel

PROMPTS = [[5, 9, 40, 8], [7, 7, 3]]
MEMORY = 128 * 2**20
"""Bytes that reading a bad folder may take for a moment: honest limits are 16 MiB of JSON and its values."""

OUTWARD = (
    "os.system",
    "os.exec",
    "os.spawn",
    "os.posix_spawn",
    "os.fork",
    "os.forkpty",
    "subprocess.Popen",
    "socket.connect",
    "ctypes.dlopen",
)
"""Audit events of what starts a program, a connection or foreign machine code."""

TRIAL = ("subprocess.Popen", (sys.executable, "-I", "-S", "-c", _lora_config._TRIAL))
"""The one process that reading an adapter may start: it tries expressions, and nothing of the folder is its program."""

_watching = threading.local()


def _hook(event, args):
    """Audit hooks stay for good: one, which looks away unless a test of this thread asks."""
    seen = getattr(_watching, "seen", None)
    if seen is not None and event in ("open", "exec", "import", "pickle.find_class", *OUTWARD):
        # Of a process the whole command, not the program alone.
        seen.append((event, tuple(args[1]) if event == "subprocess.Popen" else args[0] if args else None))


sys.addaudithook(_hook)


@contextmanager
def watched():
    """Collects (event, argument) of what this thread opens, imports, unpickles, executes, starts and connects to."""
    _watching.seen = seen = []
    try:
        yield seen
    finally:
        _watching.seen = None


def opened_outside(seen, folder):
    """Paths that were opened although they are neither in the folder nor the system's own."""
    paths = [
        Path(os.fsdecode(path)).resolve() for event, path in seen if event == "open" and isinstance(path, str | bytes)
    ]
    return [path for path in paths if not path.is_relative_to(folder.resolve()) and path != Path(os.devnull)]


def peak_bytes():
    """Most resident memory of this process since `clear_refs` was told to forget."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) * 1024


@pytest.fixture(scope="module")
def shelf():
    return shared_shelf("llama")


@pytest.fixture(scope="module")
def model(shelf, tmp_path_factory):
    """A running model with two adapters; a third came and went, so that everything is imported that loading needs."""
    model = MultiAdapterModel.from_pretrained(shelf.base, dtype="float32", device_map="cpu")
    model.load_adapter(shelf.paths["deep"])
    model.load_adapter(shelf.paths["many"])
    model.set_adapter("deep")
    folder = shutil.copytree(shelf.paths["projected"], tmp_path_factory.mktemp("first") / "first")
    lora(target_modules=r".*_proj")(folder)
    model.load_adapter(folder, "first")
    model.delete_adapter("first")
    return model


@pytest.fixture(scope="module")
def text(model):
    """What the model says before anything bad comes."""
    return says(model)


@pytest.fixture
def folder(shelf, tmp_path):
    """A good bundle of one's own."""
    return shutil.copytree(shelf.paths["projected"], tmp_path / "bad")


@pytest.fixture(autouse=True)
def _nothing_left(model):
    """What a failing test left on the shelf would make the others fail."""
    yield
    for name in set(model.adapters()) - {"deep", "many"}:
        model.delete_adapter(name)


@pytest.fixture(autouse=True)
def _impatient(monkeypatch):
    monkeypatch.setattr(_lora_config, "_PATIENCE", 0.5)


def state(model):
    account = model.memory()
    return (
        list(model.adapters()),
        model.active_adapter,
        account["base"],
        account["adapters"],
        account["adapters_resident"],
    )


def says(model):
    return model.generate(PROMPTS, max_new_tokens=8, ignore_eos=True)


def test_there_are_at_least_forty_variants():
    assert len(VARIANTS) >= 40


@pytest.mark.parametrize("name", VARIANTS)
def test_a_bad_adapter_is_named_and_disturbs_nothing(model, text, folder, tmp_path, name, monkeypatch):
    damage, message = VARIANTS[name]
    damage(folder)
    if "found no end" in message:  # nor would it in more time
        monkeypatch.setattr(_lora_config, "_PATIENCE", 1.0)
    before = state(model)
    Path("/proc/self/clear_refs").write_text("5")
    held = peak_bytes()
    with watched() as seen, pytest.raises(BundleError, match=message) as caught:
        model.load_adapter(folder)
    assert peak_bytes() - held < MEMORY
    assert str(tmp_path) in str(caught.value)
    assert len(str(caught.value)) < 2_000
    assert all(character.isprintable() for character in str(caught.value))
    assert opened_outside(seen, folder) == []
    assert [entry for entry in seen if entry[0] != "open" and entry != TRIAL] == []
    assert (TRIAL in seen) == ("found no end" in message)
    assert state(model) == before
    assert says(model) == text


def test_the_undamaged_adapter_loads_and_opens_its_own_files_alone(shelf, model, folder):
    with watched() as seen:
        model.load_adapter(folder, "good")
    assert opened_outside(seen, folder) == []
    assert {event for event, _ in seen} == {"open"}
    found = model.generate(PROMPTS[0], "good", max_new_tokens=8, ignore_eos=True, return_dict=True)
    assert found["token_ids"] == shelf.reference(PROMPTS[0], "projected", 8)
    model.delete_adapter("good")


def forked():
    if (child := os.fork()) == 0:
        os._exit(0)
    os.waitpid(child, 0)


def connected():
    with socket.socket() as server, socket.socket() as client:
        server.bind(("127.0.0.1", 0))
        server.listen()
        client.connect(server.getsockname())


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")  # of forking beside other threads
@pytest.mark.parametrize(
    ("event", "act"),
    [
        ("os.system", lambda: os.system("true")),
        ("os.posix_spawn", lambda: os.waitpid(os.posix_spawn("/bin/true", ["true"], {}), 0)),
        ("os.fork", forked),
        ("subprocess.Popen", lambda: subprocess.run(["true"], check=True)),
        ("socket.connect", connected),
        ("ctypes.dlopen", lambda: ctypes.CDLL(None)),
    ],
)
def test_the_watch_sees_what_leaves_the_process(event, act):
    with watched() as seen:
        act()
    assert event in OUTWARD
    assert event in {name for name, _ in seen}
    assert TRIAL not in seen


def test_the_watch_sees_what_it_must(tmp_path):
    """Otherwise the tests above would show nothing."""
    (tmp_path / "file.pt").write_bytes(pickled(tmp_path / "marker"))
    with watched() as seen:
        torch.load(tmp_path / "file.pt", weights_only=False)
    assert (tmp_path / "marker").exists()
    assert {"open", "pickle.find_class"} <= {event for event, _ in seen}
    assert opened_outside(seen, tmp_path / "other") != []


@pytest.mark.parametrize("path", ["no_such_folder", "deep/../nowhere"])
def test_a_path_that_leads_nowhere(shelf, model, path):
    with pytest.raises(BundleError, match="is no folder"):
        model.load_adapter(shelf.paths["deep"].parent / path)


# -- nothing is executed ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [LORA, STREAMS, CONFIG, SETTINGS, PROVENANCE])
def test_a_pickle_in_place_of_a_file_is_refused_unopened(model, folder, tmp_path, name):
    (folder / name).write_bytes(pickled(tmp_path / "marker"))
    with pytest.raises(BundleError, match=rf"{name}: (no valid safetensors file|not readable as JSON)"):
        model.load_adapter(folder)
    assert not (tmp_path / "marker").exists()


def test_a_pickle_beside_missing_weights_is_not_taken_instead(model, folder, tmp_path):
    (folder / LORA).unlink()
    (folder / "adapter_model.bin").write_bytes(pickled(tmp_path / "marker"))
    with pytest.raises(BundleError, match=f"{LORA}: missing"):
        model.load_adapter(folder)
    with pytest.raises(BundleError, match=f"{LORA}: missing"):
        load_adapted(folder, merge=True)
    assert not (tmp_path / "marker").exists()


def plant(folder, marker):
    """Everything that some library executes where it is asked to trust a folder."""
    code = f"open({str(marker)!r}, 'w').close()\n"
    (folder / "custom_generate").mkdir()
    for name in (
        "custom_generate/generate.py",
        "modeling.py",
        "__init__.py",
        "sitecustomize.py",
        "json.py",
        "conftest.py",
    ):
        (folder / name).write_text(code)
    for name in ("adapter_model.bin", "pytorch_model.bin", "training_args.bin"):
        (folder / name).write_bytes(pickled(marker))
    trust = {"auto_map": {"AutoModelForCausalLM": "modeling.Model"}, "trust_remote_code": True}
    lora(auto_mapping={"base_model_class": "Model", "parent_library": "modeling"}, **trust)(folder)
    held = json.loads((folder / SETTINGS).read_text())
    (folder / SETTINGS).write_text(json.dumps({**held, **trust, "custom_generate": "custom_generate/generate.py"}))
    (folder / "config.json").write_text(json.dumps({"model_type": "llama", **trust}))
    (folder / "run.yaml").write_text(f"base: !!python/object/apply:os.mkdir [{json.dumps(str(marker))}]\n")
    (folder / "README.md").write_text("{{ ''.__class__ }}\n")


@pytest.mark.filterwarnings("ignore:Unexpected keyword arguments")  # peft names the fields that it does not know
@pytest.mark.parametrize("way", ["shelf", "routed", "merged"])
def test_code_in_the_folder_is_never_executed(shelf, model, folder, tmp_path, monkeypatch, way):
    marker = tmp_path / "marker"
    plant(folder, marker)
    monkeypatch.chdir(folder)
    expected = shelf.reference(PROMPTS[0], "projected", 8)
    with watched() as seen:
        if way == "shelf":
            model.load_adapter(folder, "planted")
            found = model.generate(PROMPTS[0], "planted", max_new_tokens=8, ignore_eos=True, return_dict=True)
            found = found["token_ids"]
            model.delete_adapter("planted")
        else:
            adapted = load_adapted(folder, str(shelf.base), dtype="float32", merge=way == "merged")
            found = adapted.complete([PROMPTS[0]], max_new_tokens=8, ignore_eos=True)[0].token_ids
    assert found == expected
    assert not marker.exists()
    assert not [event for event in seen if event[0] in ("pickle.find_class", *OUTWARD)]
    touched = {
        Path(os.fsdecode(path)).name for event, path in seen if event == "open" and isinstance(path, str | bytes)
    }
    assert not touched & {"modeling.py", "generate.py", "adapter_model.bin", "run.yaml", "README.md"}


@pytest.mark.parametrize(
    "changes", [{"megatron_config": {}, "megatron_core": "megatron.x"}, {"layer_replication": [[0, 9]]}]
)
def test_merging_leaves_nothing_to_peft_that_the_low_rank_sum_cannot_be(shelf, folder, changes):
    """peft would import the module, or repeat the layers."""
    lora(**changes)(folder)
    with pytest.raises(BundleError, match=f"{next(iter(changes))}=.* cannot decode as a low-rank sum"):
        load_adapted(folder, str(shelf.base), dtype="float32", merge=True)


# -- what is odd but allowed ------------------------------------------------------------------------------------


def test_a_tree_of_absurd_width_decodes_the_same(shelf, model, folder):
    section("tree", top_k=10**12, max_depth=10**12, max_stream_nodes=10**12, max_batch_nodes=10**12)(folder)
    model.load_adapter(folder, "wide")
    found = model.generate(PROMPTS[0], "wide", max_new_tokens=8, ignore_eos=True, return_dict=True)
    model.delete_adapter("wide")
    assert found["token_ids"] == shelf.reference(PROMPTS[0], "projected", 8)


def test_numbers_that_overflow_spoil_their_own_rows_alone(shelf, model, folder):
    """Finite in the file, infinite once multiplied: nobody can tell before; other rows of the batch must not care."""
    tensors = load_file(folder / LORA)
    save_file({key: value.sign() * 1e30 for key, value in tensors.items()}, folder / LORA)
    model.load_adapter(folder, "loud")
    found = model.generate(
        [PROMPTS[0]] * 3, ["deep", "loud", "many"], max_new_tokens=8, ignore_eos=True, return_dict=True
    )
    model.delete_adapter("loud")
    assert found[0]["token_ids"] == shelf.reference(PROMPTS[0], "deep", 8)
    assert found[2]["token_ids"] == shelf.reference(PROMPTS[0], "many", 8)


def test_a_busy_machine_refuses_an_honest_expression_for_once_only(model, folder, monkeypatch):
    lora(target_modules=r"(?:.*\.)?[a-z]+_proj(?:|x)")(folder)
    monkeypatch.setattr(_lora_config, "_PATIENCE", 1e-4)
    with pytest.raises(BundleError, match="found no end within"):
        model.load_adapter(folder, "busy")
    monkeypatch.setattr(_lora_config, "_PATIENCE", 60.0)
    model.load_adapter(folder, "busy")
    with watched() as seen:
        check_fit(read_outline(folder), model.model, model.bank.fingerprint)
    assert TRIAL not in seen  # what ended once is remembered
    model.delete_adapter("busy")


def test_an_honest_expression_is_matched(shelf, model, folder):
    lora(
        target_modules=r"(?:.*?(?:model|text).*?(?:self_attn|mlp).*?(?:[a-z]+_proj).*?)|(?:\bmodel\.layers\.[\d]{1,}\.x)"
    )(folder)
    model.load_adapter(folder, "expression")
    found = model.generate(PROMPTS[0], "expression", max_new_tokens=8, ignore_eos=True, return_dict=True)
    model.delete_adapter("expression")
    assert found["token_ids"] == shelf.reference(PROMPTS[0], "projected", 8)


def test_an_outline_has_the_shapes_and_no_memory(folder):
    outline, bundle = read_outline(folder), read_bundle(folder)
    for found, expected in (
        (outline.loras[0].weights, bundle.loras[0].weights),
        (outline.stream_weights, bundle.stream_weights),
    ):
        assert {k: (v.shape, v.dtype) for k, v in found.items()} == {k: (v.shape, v.dtype) for k, v in expected.items()}
        assert all(value.is_meta for value in found.values())
    assert outline.loras[0].parameters == bundle.loras[0].parameters
