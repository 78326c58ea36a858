"""Push and pull against a hub on loopback: what travels, what stays home, what is refused."""

import json
import shutil

import pytest
from hub_shelf import REPO, contents, copy_of, published
from loopback_hub import TOKEN
from shelf import PLAIN, shared_shelf

from ssft import hub as hub_module
from ssft.bundle import hub as bundle_hub
from ssft.bundle.format import BUNDLE_FILES, LORA_CONFIG, LORA_WEIGHTS, SSFT_CONFIG, STREAM_WEIGHTS
from ssft.bundle.hub import pull, resolve_adapter
from ssft.bundle.read import read_bundle
from ssft.card.results import About, Results, read_results, write_results
from ssft.card.write import card_files
from ssft.errors import BundleError, ConfigError, HubError
from ssft.hub import push
from ssft.runtime.loader import load_adapted
from ssft.runtime.model import MultiAdapterModel

# -- there and back ---------------------------------------------------------------------------------------------


def test_only_the_bundle_travels_and_comes_back_byte_by_byte(hub, adapter):
    (adapter / "secret.txt").write_text("stays home")
    (adapter / "checkpoint").mkdir()
    (adapter / "checkpoint" / LORA_WEIGHTS).write_bytes(b"stays home")
    own = {name: data for name, data in contents(shared_shelf().paths["deep"]).items() if name in BUNDLE_FILES}

    pushed = push(adapter, REPO)
    own["README.md"] = card_files(read_bundle(adapter), REPO)["README.md"]  # it names the repository
    assert hub.files(REPO) == {".gitattributes": hub.files(REPO)[".gitattributes"], **own}
    assert pushed.files == {name: len(data) for name, data in own.items()}
    assert (pushed.revision, pushed.changed, pushed.pull_request) == ("main", True, None)
    assert pushed.commit == hub.repos[REPO].branches["main"]
    assert pushed.url == f"{hub.url}/{REPO}/commit/{pushed.commit}"
    assert len(hub.requests("POST", "/commit/")) == 1  # never half an adapter on the hub

    pulled = pull(REPO)
    assert str(pulled.path) == "adapters/deep-one"
    assert contents(pulled.path) == own
    assert (pulled.files, pulled.commit) == (pushed.files, pushed.commit)
    assert not any((pulled.path / name).is_symlink() for name in own)
    assert [path.name for path in pulled.path.parent.iterdir()] == ["deep-one"]


def test_the_pulled_and_the_named_adapter_decode_the_same_text(hub, adapter):
    push(adapter, REPO)
    pull(REPO, "here")
    base = shared_shelf().base
    model = MultiAdapterModel.from_pretrained(base, dtype="float32")
    model.load_adapter(adapter, "pushed")
    model.load_adapter("here")
    assert model.load_adapter(REPO) == "deep-one"
    facts = [
        model.generate("say 7:", adapter=name, max_new_tokens=24, ignore_eos=True, return_dict=True)
        for name in ("pushed", "here", "deep-one", None)
    ]
    told = [(fact["token_ids"], fact["calls"], fact["accepted"]) for fact in facts]  # the streams are the same too
    assert told[0] == told[1] == told[2] != told[3]
    adapted = load_adapted(REPO, str(base), dtype="float32")
    assert adapted.active_adapter == "deep-one"
    assert adapted.active.bundle.weights_sha256 == read_bundle("here").weights_sha256


def test_a_second_push_of_the_same_changes_nothing(hub, adapter):
    first, puts = push(adapter, REPO), len(hub.requests("PUT"))
    second = push(adapter, REPO)
    assert (second.changed, second.commit) == (False, first.commit)
    assert len(hub.requests("PUT")) == puts == 2


def test_pushing_a_plain_lora_over_a_bundle_leaves_no_mixture(hub, adapter, tmp_path):
    push(adapter, REPO)
    hub.write(REPO, "main", {"notes.md": b"the owner's"})
    push(copy_of(PLAIN, tmp_path / "plain"), REPO)
    assert {SSFT_CONFIG, STREAM_WEIGHTS} & set(hub.files(REPO)) == set()
    assert hub.files(REPO)["notes.md"] == b"the owner's"
    assert pull(REPO).bundle.stream_config is None


def test_a_plain_peft_lora_is_pulled(hub):
    published(hub, PLAIN)
    pulled = pull(REPO)
    assert pulled.bundle.stream_config is None
    assert pulled.base == json.loads((pulled.path / LORA_CONFIG).read_text())["base_model_name_or_path"]


def test_revisions_and_pull_requests(hub, adapter, tmp_path):
    plain = copy_of(PLAIN, tmp_path / "plain")
    main = push(plain, REPO).commit
    branch = push(adapter, REPO, revision="v2")
    request = push(adapter, REPO, create_pr=True)
    assert hub.repos[REPO].branches == {"main": main, "v2": branch.commit, "refs/pr/1": request.commit}
    assert request.pull_request == f"{hub.url}/{REPO}/discussions/1"
    assert pull(REPO).commit == main
    for revision in ("v2", branch.commit, "refs/pr/1"):
        assert pull(REPO, "at", revision).bundle.stream_config is not None
    assert push(plain, REPO, revision="v2").revision == "v2"  # the branch exists now
    with pytest.raises(HubError, match=r"has no revision 'v3'; give one of its branches, tags or commits"):
        pull(REPO, revision="v3")


# -- what is refused before anything moves ------------------------------------------------------------------------


def test_a_damaged_bundle_is_not_pushed(hub, adapter):
    weights = adapter / STREAM_WEIGHTS
    weights.write_bytes(weights.read_bytes()[:-7])
    with pytest.raises(BundleError, match="no valid safetensors"):
        push(adapter, REPO)
    assert hub.log == []


def test_the_card_is_written_anew_before_it_travels_and_stays_as_it_was_pulled(hub, adapter):
    (adapter / "README.md").unlink()
    results = Results(About("mit"))
    write_results(read_bundle(adapter), results)
    pushed = push(adapter, REPO)
    assert {"README.md", "results.json"} <= set(pushed.files)
    text = hub.files(REPO)["README.md"].decode()
    assert "license: mit" in text
    assert f"ssft generate {REPO} " in text
    assert not (adapter / "README.md").exists()
    pulled = pull(REPO)
    assert (pulled.path / "README.md").read_text() == text
    assert read_results(pulled.bundle) == results


def test_a_card_by_another_hand_is_neither_lost_nor_pushed(hub, adapter):
    (adapter / "README.md").write_text("# by hand\n")
    with pytest.raises(BundleError, match=r"README.md: not written by ssft"):
        push(adapter, REPO)
    assert (adapter / "README.md").read_text() == "# by hand\n"
    assert hub.log == []


@pytest.mark.parametrize("text", [TOKEN, "hf_" + "a" * 34])
def test_a_file_with_a_token_is_not_pushed(hub, adapter, text):
    (adapter / "run.yaml").write_text(f"training:\n  hub_token: {text}\n")
    with pytest.raises(BundleError, match=r"run.yaml: holds an access token of the hub") as caught:
        push(adapter, REPO)
    assert text not in str(caught.value)
    assert hub.log == []


def test_a_card_that_links_out_of_the_folder_is_not_pushed(hub, adapter, tmp_path):
    (tmp_path / "private.txt").write_text("a key")
    (adapter / "README.md").unlink()
    (adapter / "README.md").symlink_to(tmp_path / "private.txt")
    with pytest.raises(BundleError, match="outside the adapter folder"):
        push(adapter, REPO)
    assert hub.log == []


def test_a_bundle_that_changes_while_it_is_read_is_not_pushed(hub, adapter, monkeypatch):
    def addition(path_in_repo, path_or_fileobj):
        other = shared_shelf().paths["many"] / LORA_WEIGHTS
        shutil.copyfile(other, adapter / LORA_WEIGHTS)  # a training run that ends just now

    monkeypatch.setattr(hub_module, "CommitOperationAdd", addition)
    with pytest.raises(BundleError, match="changed while it was read; push it again"):
        push(adapter, REPO)
    assert hub.log == []


def test_private_is_kept_or_refused(hub, adapter):
    push(adapter, REPO, private=True)
    assert hub.repos[REPO].private
    published(hub, PLAIN)
    before = hub.files(REPO)
    with pytest.raises(HubError, match="exists and is public, which --private does not change"):
        push(adapter, REPO, private=True)
    assert hub.files(REPO) == before


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"repo": "sql"}, "expected owner/name"),
        ({"repo": "a/b/c"}, "expected owner/name"),
        ({"revision": "v2", "create_pr": True}, "leave out --revision v2 or --create-pr"),
        ({"revision": "0" * 40}, "a commit cannot be changed; give a branch"),
    ],
)
def test_settings_that_cannot_work(hub, adapter, settings, message):
    with pytest.raises(ConfigError, match=message):
        push(adapter, **{"repo": REPO, **settings})
    assert hub.log == []


def test_foreign_code_and_pickles_are_not_downloaded(hub):
    foreign = {
        "modeling_x.py": b"import os",
        "adapter_model.bin": b"\x80",
        "sub/README.md": b"",
        "training_args.bin": b"",
    }
    published(hub, **foreign)
    pulled = pull(REPO)
    assert set(pulled.files) == set(contents(pulled.path)) <= set(BUNDLE_FILES)
    asked = {entry.path.split("/resolve/")[1].split("/", 1)[1] for entry in hub.log if "/resolve/" in entry.path}
    assert asked == set(pulled.files)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"config.json": b"{}"}, r"holds no adapter: adapter_config.json is missing. A base model is named by --base"),
        ({LORA_CONFIG: b"{}", "adapter_model.bin": b"\x80"}, r"adapter_model.bin is a pickle, which could run code"),
        (
            {LORA_CONFIG: b"{}", LORA_WEIGHTS: b"", "README.md": b"x" * 65},
            r"README.md has 65 bytes, but no adapter needs",
        ),
    ],
)
def test_a_repository_that_cannot_be_an_adapter_is_not_downloaded(hub, monkeypatch, files, message):
    monkeypatch.setattr(bundle_hub, "MAX_JSON", 64)
    hub.create(REPO, files)
    with pytest.raises(BundleError, match=message):
        pull(REPO)
    assert not any("/resolve/" in entry.path for entry in hub.log)


def test_a_folder_that_is_no_bundle_is_not_replaced(hub, adapter, tmp_path):
    published(hub)
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.tex").write_text("years of work")
    (tmp_path / "file").write_text("x")
    (adapter / "notes.txt").write_text("mine")
    for target, message in (
        ("thesis", "thesis exists and is no adapter bundle"),
        ("file", "file exists and is no adapter bundle"),
        (adapter, r"holds notes.txt, which is no file of a bundle and would be lost"),
    ):
        with pytest.raises(BundleError, match=message):
            pull(REPO, target)
    assert hub.log == []
    with pytest.raises(BundleError, match=r"file/below cannot be written \(.*choose another --output"):
        pull(REPO, "file/below")
    assert (tmp_path / "thesis" / "chapter.tex").read_text() == "years of work"


# -- replacing ----------------------------------------------------------------------------------------------------


def test_a_bundle_is_replaced_only_by_one_that_was_checked(hub, tmp_path):
    target = copy_of(PLAIN, tmp_path / "target")
    (target / "README.md").unlink(missing_ok=True)
    before = contents(target)
    published(hub, **{SSFT_CONFIG: b'{"format_version": 9}'})
    with pytest.raises(BundleError, match=rf"{REPO}/ssft_config.json: format_version is 9.*target was not written"):
        pull(REPO, target)
    assert contents(target) == before
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".target")]
    published(hub)
    assert pull(REPO, target).bundle.stream_config is not None
    assert contents(target) == contents(shared_shelf().paths["deep"])


# -- folder or repository ---------------------------------------------------------------------------------------


def test_a_folder_wins_over_a_repository(hub, tmp_path):
    published(hub)
    (tmp_path / "alice").mkdir()
    copy_of("small", tmp_path / REPO)
    assert str(resolve_adapter(REPO)) == REPO
    assert hub.log == []


def test_neither_a_folder_nor_a_repository(hub):
    for text in ("nowhere", "./alice/deep-one", "a/b/c", ""):
        with pytest.raises(
            BundleError, match=r"is no folder; give the folder .* or a repository of the hub as owner/na"
        ):
            resolve_adapter(text)
    assert hub.log == []
    with pytest.raises(
        BundleError, match=r"adapter 'outputs/sql' is no folder here, and on the hub: outputs/sql on .*404"
    ):
        resolve_adapter("outputs/sql")
