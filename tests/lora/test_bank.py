"""Residency: who is on the device, who goes when the budget is spent, who comes back, and what is never lost."""

import shutil
import threading
import time

import pytest
import torch
from shelf import save_adapter, shared_shelf

from ssft.decoding.config import TreeConfig
from ssft.errors import BundleError, ConfigError, GenerationError
from ssft.runtime.model import MultiAdapterModel

NAMES = ["deep", "many", "projected", "small"]
PROMPT = [5, 9, 40, 8]


@pytest.fixture(scope="module")
def shelf():
    return shared_shelf("llama")


def fresh(shelf, **settings):
    return MultiAdapterModel.from_pretrained(shelf.base, dtype="float32", device_map="cpu", **settings)


@pytest.fixture(scope="module")
def sizes(shelf):
    model = fresh(shelf)
    for name in NAMES:
        model.load_adapter(shelf.paths[name])
    return {name: adapter.nbytes for name, adapter in model.adapters().items()}


def say(model, name, tokens=6):
    return model.generate(PROMPT, name, max_new_tokens=tokens, ignore_eos=True, return_dict=True)["token_ids"]


def tiers(model):
    return {name: adapter.tier for name, adapter in model.adapters().items()}


def test_an_adapter_costs_its_file_and_the_zeros_beside_its_b(shelf, sizes):
    model = fresh_with(shelf, NAMES)
    for name, adapter in model.adapters().items():
        zeros = 0
        for group in model.linears.groups:
            found = [adapter.lora.layers[member] for member in group.names if member in adapter.lora.layers]
            ranks = sum(len(layer.down) for layer in found)
            zeros += ranks * group.bounds[-1][1] - sum(layer.up.numel() for layer in found)
        assert zeros > 0
        own = 4 * (adapter.bundle.loras[0].parameters + adapter.bundle.extra_parameters)
        assert adapter.nbytes == own + 4 * zeros
        # The rest of the files are safetensors' headers, which weigh something beside tiny tensors.
        assert 0.5 < own / adapter.bundle.weights_bytes <= 1
        assert sizes[name] == adapter.nbytes


def fresh_with(shelf, names, **settings):
    model = fresh(shelf, **settings)
    for name in names:
        model.load_adapter(shelf.paths[name])
    return model


def test_one_thread_that_would_wait_for_itself_is_told_so(shelf, sizes):
    model = fresh_with(shelf, ["deep", "many"], max_adapter_bytes=max(sizes["deep"], sizes["many"]) + 1)
    stream = model.stream(PROMPT, "deep", max_new_tokens=30, ignore_eos=True)
    next(stream)
    with pytest.raises(GenerationError, match="no room for 'many' beside 'deep', which this very thread holds"):
        say(model, "many")
    stream.close()
    assert say(model, "many")


def test_a_name_that_is_loaded_anew_waits_for_the_call_that_has_the_old_one(shelf, sizes):
    model = fresh_with(shelf, ["deep"], max_adapter_bytes=int(1.3 * sizes["deep"]))
    expected, started, go_on = say(model, "deep"), threading.Event(), threading.Event()

    def long_call():
        stream = model.stream(PROMPT, "deep", max_new_tokens=30, ignore_eos=True)
        next(stream)
        started.set()
        go_on.wait(60)
        stream.close()

    caller = threading.Thread(target=long_call)
    caller.start()
    assert started.wait(60)
    model.delete_adapter("deep")
    model.load_adapter(shelf.paths["deep"], "deep")
    threading.Timer(0.2, go_on.set).start()
    assert say(model, "deep") == expected
    caller.join()


def test_an_adapter_that_is_the_only_copy_is_named_when_it_leaves_no_room(shelf, sizes, tmp_path):
    folder = shutil.copytree(shelf.paths["deep"], tmp_path / "deep")
    model = fresh(shelf, max_adapter_bytes=max(sizes["deep"], sizes["many"]) + 1)
    model.load_adapter(folder, "deep")
    model.load_adapter(shelf.paths["many"], "many")
    say(model, "deep")
    config = folder / "ssft_config.json"
    config.write_text(config.read_text() + "\n")
    with pytest.raises(GenerationError, match="no room for 'many': the folder of 'deep' changed since it was loaded"):
        say(model, "many")
    model.delete_adapter("deep")
    assert say(model, "many")


def test_without_a_budget_all_stay(shelf):
    assert set(tiers(fresh_with(shelf, NAMES)).values()) == {"device"}


def test_the_least_recently_used_goes_and_comes_back_by_itself(shelf, sizes):
    model = fresh_with(shelf, NAMES[:2], max_adapter_bytes=sum(sizes[name] for name in NAMES[:3]))
    say(model, "deep")  # now "many" is the one not used for longest
    model.load_adapter(shelf.paths["projected"])
    assert set(tiers(model).values()) == {"device"}
    model.load_adapter(shelf.paths["small"])
    assert tiers(model) == {"deep": "device", "many": "disk", "projected": "device", "small": "device"}
    assert model.adapters()["many"].lora is None
    assert model.bank.resident_bytes() <= model.bank.max_bytes
    assert say(model, "many") == shelf.reference(PROMPT, "many", 6)
    assert tiers(model)["many"] == "device"
    assert tiers(model)["deep"] == "disk"
    assert model.bank.resident_bytes() <= model.bank.max_bytes


def test_every_adapter_speaks_right_through_any_order_of_evictions(shelf, sizes):
    model = fresh_with(shelf, NAMES, max_adapter_bytes=max(sizes.values()))
    for name in ["small", "deep", "many", "deep", "projected", "many", "small"]:
        assert say(model, name) == shelf.reference(PROMPT, name, 6)
        assert model.bank.resident_bytes() <= model.bank.max_bytes
        assert list(tiers(model).values()).count("device") >= 1


def test_a_pinned_adapter_stays(shelf, sizes):
    model = fresh(shelf, max_adapter_bytes=sizes["deep"] + sizes["many"])
    model.load_adapter(shelf.paths["deep"], pinned=True)
    for name in ("many", "projected", "small"):
        model.load_adapter(shelf.paths[name])
        say(model, name)
        assert tiers(model)["deep"] == "device"
    model.pin_adapter("deep", False)
    say(model, "many")
    say(model, "projected")
    assert tiers(model)["deep"] == "disk"


def test_a_mixed_call_needs_room_for_all_its_adapters(shelf, sizes):
    model = fresh_with(shelf, NAMES[:3], max_adapter_bytes=sizes["deep"] + sizes["many"])
    texts = model.generate([PROMPT] * 2, ["deep", "many"], max_new_tokens=6, ignore_eos=True, return_dict=True)
    assert [t["token_ids"] for t in texts] == [shelf.reference(PROMPT, name, 6) for name in ("deep", "many")]
    message = r"holding '\w+', '\w+', '\w+' on the device takes [\d,]+ bytes .*max_adapter_bytes is [\d,]+; raise it"
    with pytest.raises(GenerationError, match=message):
        model.generate([PROMPT] * 3, NAMES[:3], max_new_tokens=2)
    assert say(model, "projected") == shelf.reference(PROMPT, "projected", 6)


def test_a_call_waits_for_room_that_another_call_holds(shelf, sizes):
    model = fresh_with(shelf, ["deep", "many"], max_adapter_bytes=max(sizes["deep"], sizes["many"]))
    stream = model.stream(PROMPT, "deep", max_new_tokens=30, ignore_eos=True)
    next(stream)
    found = []
    waiter = threading.Thread(target=lambda: found.append(say(model, "many")))
    waiter.start()
    time.sleep(0.3)
    assert not found
    assert tiers(model) == {"deep": "device", "many": "disk"}
    stream.close()
    waiter.join(10)
    assert found == [shelf.reference(PROMPT, "many", 6)]


def test_a_deleted_adapter_finishes_its_call_and_then_frees_its_bytes(shelf, sizes):
    model = fresh_with(shelf, ["deep"])
    expected = model.generate(PROMPT, "deep", max_new_tokens=20, ignore_eos=True)
    stream = model.stream(PROMPT, "deep", max_new_tokens=20, ignore_eos=True)
    begin = next(stream)
    model.set_adapter("deep")
    model.delete_adapter("deep")
    assert model.active_adapter is None
    assert model.bank.resident_bytes() == sizes["deep"]
    with pytest.raises(ConfigError, match=r"adapter 'deep' is not loaded; loaded are: none. Call load_adapter first"):
        model.set_adapter("deep")
    assert begin + "".join(stream) == expected
    assert model.bank.resident_bytes() == 0


def test_a_folder_that_changed_is_not_trusted_with_the_only_copy(shelf, sizes, tmp_path, caplog):
    """Evicting to disk would lose the tensors, so the adapter stays and another one goes."""
    folder = shutil.copytree(shelf.paths["deep"], tmp_path / "deep")
    model = fresh(shelf, max_adapter_bytes=sizes["deep"] + sizes["many"])
    model.load_adapter(folder)
    model.load_adapter(shelf.paths["many"])
    shutil.rmtree(folder)
    model.load_adapter(shelf.paths["small"])
    assert tiers(model) == {"deep": "device", "many": "disk", "small": "device"}
    assert "changed since it was loaded; 'deep' stays in memory" in caplog.text
    assert say(model, "deep") == shelf.reference(PROMPT, "deep", 6)


def test_a_folder_that_changed_after_eviction_is_an_error_not_another_text(shelf, sizes, tmp_path):
    folder = shutil.copytree(shelf.paths["deep"], tmp_path / "deep")
    model = fresh(shelf, max_adapter_bytes=sizes["many"])
    model.load_adapter(folder)
    model.load_adapter(shelf.paths["many"])
    assert tiers(model)["deep"] == "disk"
    other = save_adapter(
        tmp_path / "other", shelf.base, {"r": 4}, model.adapters()["deep"].bundle.stream_config, seed=9
    )
    shutil.copy(other / "adapter_model.safetensors", folder / "adapter_model.safetensors")
    with pytest.raises(BundleError, match=r"changed since 'deep' was loaded from it.*load_adapter it anew"):
        say(model, "deep")
    assert say(model, "many") == shelf.reference(PROMPT, "many", 6)
    shutil.copy(shelf.paths["deep"] / "adapter_model.safetensors", folder / "adapter_model.safetensors")
    assert say(model, "deep") == shelf.reference(PROMPT, "deep", 6)


def test_an_adapter_deleted_while_disabled_is_not_active_again(shelf):
    model = fresh_with(shelf, ["deep"])
    model.set_adapter("deep")
    with model.disable_adapter():
        model.delete_adapter("deep")
    assert model.active_adapter is None
    assert say(model, None) == shelf.reference(PROMPT, None, 6)


def test_loading_again_under_another_name_and_tree(shelf):
    model = fresh_with(shelf, ["deep"])
    with pytest.raises(ConfigError, match="an adapter named 'deep' is loaded already; delete_adapter it, or give"):
        model.load_adapter(shelf.paths["deep"])
    assert model.load_adapter(shelf.paths["deep"], "chain", tree=TreeConfig("chain", 3)) == "chain"
    assert model.adapters()["chain"].tree.kind == "chain"
    assert say(model, "chain") == say(model, "deep") == shelf.reference(PROMPT, "deep", 6)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"max_adapter_bytes": 0}, "max_adapter_bytes=0: a positive number"),
        ({"evict_to": "tape"}, "evict_to='tape': expected one of host, disk"),
        ({"evict_to": "host"}, "evict_to='host': the model is on the host itself"),
    ],
)
def test_wrong_budgets_are_named(shelf, settings, message):
    with pytest.raises(ConfigError, match=message):
        fresh(shelf, **settings)


def test_what_can_never_fit_is_refused_at_loading(shelf, sizes):
    model = fresh(shelf, max_adapter_bytes=sizes["many"] + 8)
    model.load_adapter(shelf.paths["small"], pinned=True)
    with pytest.raises(ConfigError, match=r"holding 'many' on the device takes .* beside .* of pinned adapters"):
        model.load_adapter(shelf.paths["many"])
    assert list(model.adapters()) == ["small"]
    model.pin_adapter("small", False)
    model.load_adapter(shelf.paths["many"])
    model.pin_adapter("many")
    with pytest.raises(ConfigError, match=r"holding 'small' on the device takes .* beside .* of pinned adapters"):
        model.pin_adapter("small")


def test_the_account_adds_up(shelf, sizes):
    model = fresh_with(shelf, NAMES[:3], max_adapter_bytes=sizes["many"] + sizes["projected"])
    account = model.memory()
    parameters = {id(p): p for p in model.model.parameters()}.values()
    buffers = sum(b.nbytes for b in model.model.buffers())
    # Packed weights take what the dense ones took; those of the head are there twice.
    head = model.model.get_output_embeddings().weight.nbytes
    assert account["base"] == sum(p.nbytes for p in parameters) + buffers + head
    assert account["adapters"]["deep"]["tier"] == "disk"
    assert account["adapters_resident"] == sizes["many"] + sizes["projected"]
    assert account["max_adapter_bytes"] == model.bank.max_bytes
    assert account["process"] > account["base"]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU: the host is another place than the device")
def test_eviction_to_the_host_is_bit_equal(shelf, sizes):
    model = MultiAdapterModel.from_pretrained(
        shelf.base, dtype="float32", device_map="cuda", max_adapter_bytes=max(sizes.values())
    )
    for name in NAMES:
        model.load_adapter(shelf.paths[name])
    assert "host" in tiers(model).values()
    for name in [*NAMES, *NAMES]:
        assert say(model, name) == shelf.reference(PROMPT, name, 6)
