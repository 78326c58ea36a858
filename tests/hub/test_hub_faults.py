"""Push and pull over a hub that fails, breaks off, lies or refuses; the token is in no message."""

import time
import traceback

import httpx2
import pytest
from hub_shelf import REPO, contents, copy_of, published
from huggingface_hub import constants
from loopback_hub import CUT, DROP, TOKEN
from shelf import PLAIN, shared_shelf

from ssft.bundle import hub as bundle_hub
from ssft.bundle import hub_errors as _hub_errors
from ssft.bundle.format import BUNDLE_FILES, LORA_WEIGHTS, STREAM_WEIGHTS
from ssft.bundle.hub import pull, resolve_adapter
from ssft.errors import HubError
from ssft.hub import push


@pytest.fixture
def no_sleep(monkeypatch):
    """Waits of the retries, in seconds, which do not happen."""
    waits = []
    monkeypatch.setattr(time, "sleep", waits.append)
    return waits


# -- a hub that fails ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("action", [503, DROP])
@pytest.mark.parametrize(
    ("method", "path"),
    [("POST", "/create$"), ("GET", "/models/alice/deep-one$"), ("POST", "/commit/"), ("PUT", "/lfs/")],
)
def test_push_survives_two_failures(hub, adapter, no_sleep, method, path, action):
    hub.fail(method, path, action, times=2)
    push(adapter, REPO)
    assert hub.files(REPO)[LORA_WEIGHTS] == (adapter / LORA_WEIGHTS).read_bytes()
    assert hub.faults[0].times == 0
    assert no_sleep[0] == 1


@pytest.mark.parametrize("action", [500, 503, DROP])
@pytest.mark.parametrize(
    ("method", "path"), [("GET", "/revision/"), ("GET", "/tree/"), ("HEAD", "/resolve/"), ("GET", "/resolve/.*streams")]
)
def test_pull_survives_two_failures(hub, no_sleep, method, path, action):
    published(hub)
    hub.fail(method, path, action, times=2)
    assert contents(pull(REPO).path) == contents(shared_shelf().paths["deep"])
    assert hub.faults[0].times == 0


def test_long_retries_of_the_library_are_not_multiplied(hub, monkeypatch, no_sleep):
    clock = iter([0.0, 60.0])
    monkeypatch.setattr(_hub_errors.time, "monotonic", lambda: next(clock))

    def call():
        raise httpx2.ReadTimeout("after a minute of its own retries")

    with pytest.raises(httpx2.ReadTimeout):
        _hub_errors.patiently(call)
    assert no_sleep == []


def test_a_lost_answer_does_not_open_a_second_pull_request(hub, adapter, no_sleep):
    hub.create(REPO)
    hub.fail("POST", "/commit/", 503)
    with pytest.raises(HubError, match="the hub answered 503"):
        push(adapter, REPO, create_pr=True)
    assert len(hub.requests("POST", "/commit/")) == 1


def test_push_goes_on_where_it_was_interrupted(hub, adapter, no_sleep):
    hub.fail("POST", "/commit/", 503, times=3)
    with pytest.raises(HubError, match=r"the hub answered 503 .*it is down or busy; run the same command later"):
        push(adapter, REPO)
    assert LORA_WEIGHTS not in hub.files(REPO)
    puts = len(hub.requests("PUT"))
    assert push(adapter, REPO).changed
    assert len(hub.requests("PUT")) == puts == 2
    assert hub.files(REPO)[LORA_WEIGHTS] == (adapter / LORA_WEIGHTS).read_bytes()


def test_a_connection_cut_in_the_middle_is_resumed_where_it_broke(hub, no_sleep, monkeypatch):
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 1000)  # 10 MB: smaller files begin anew
    published(hub)
    hub.fail("GET", f"/resolve/.*{LORA_WEIGHTS}", CUT, times=1)
    assert contents(pull(REPO).path) == contents(shared_shelf().paths["deep"])
    ranges = [entry.range for entry in hub.requests("GET", f"/resolve/.*{LORA_WEIGHTS}")]
    half = (shared_shelf().paths["deep"] / LORA_WEIGHTS).stat().st_size // 2
    assert ranges == [None, f"bytes={half // 1000 * 1000}-"]


def test_an_interrupted_pull_leaves_nothing_and_the_next_one_fetches_the_rest(hub, no_sleep, tmp_path):
    published(hub)
    hub.fail("GET", f"/resolve/.*{LORA_WEIGHTS}", CUT, times=1)
    hub.fail("GET", f"/resolve/.*{LORA_WEIGHTS}", DROP)
    target = copy_of(PLAIN, tmp_path / "target")
    for path in target.iterdir():
        if path.name not in BUNDLE_FILES:
            path.unlink()
    before = contents(target)
    with pytest.raises(HubError, match=r"the connection broke.*check the network.*run the same command again"):
        pull(REPO, target)
    with pytest.raises(HubError, match="the connection broke"):
        pull(REPO)
    assert contents(target) == before
    assert not (tmp_path / "adapters" / "deep-one").exists()
    hub.faults.clear()
    hub.log.clear()
    assert contents(pull(REPO).path) == contents(shared_shelf().paths["deep"])
    assert [entry.path.rsplit("/")[-1] for entry in hub.requests("GET", "/resolve/")] == [LORA_WEIGHTS]


def test_a_hub_that_is_down_does_not_mean_an_old_copy(hub, no_sleep):
    published(hub)
    pull(REPO)
    hub.fail("GET", "", 503)
    with pytest.raises(HubError, match="the hub answered 503"):
        pull(REPO)


def test_a_damaged_file_of_the_cache_is_fetched_again(hub):
    published(hub)
    pull(REPO, "first")
    weights = resolve_adapter(REPO) / STREAM_WEIGHTS
    data = weights.read_bytes()
    weights.resolve().write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    assert contents(pull(REPO, "second").path) == contents(shared_shelf().paths["deep"])


def test_content_that_the_hub_does_not_list_is_refused(hub, monkeypatch):
    published(hub)
    monkeypatch.setattr(bundle_hub, "_is_whole", lambda path, entry: path.name != LORA_WEIGHTS)
    with pytest.raises(HubError, match=r"adapter_model.safetensors is not what .* lists, downloaded twice"):
        pull(REPO)


# -- who may ------------------------------------------------------------------------------------------------------


def test_no_token(hub, adapter, monkeypatch):
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(HubError, match=r"no token was found.*set HF_TOKEN or run `hf auth login`"):
        push(adapter, REPO)
    assert hub.log == []
    published(hub)
    assert pull(REPO).files
    assert {entry.token for entry in hub.log} == {None}


def test_the_token_of_a_login_is_found(hub, adapter, monkeypatch):
    monkeypatch.delenv("HF_TOKEN")
    with open(constants.HF_TOKEN_PATH, "w") as file:
        file.write(TOKEN)
    push(adapter, REPO, private=True)
    assert pull(REPO).files
    assert {entry.token for entry in hub.requests("GET") + hub.requests("POST")} == {TOKEN}


@pytest.mark.parametrize(
    ("right", "direction", "message"),
    [
        (
            None,
            "pull",
            r"the hub answered 401 .*check the name; a private repository needs a valid token: set HF_TOKEN",
        ),
        (None, "push", r"the hub answered 401"),
        (
            "read",
            "push",
            r"alice/deep-one on .*: the hub answered 403 .*the token has not the right for this.*write access",
        ),
        ("read", "lost", r"alice/lost on http://127.0.0.1:\d+: the hub answered 404 .*check the name"),
    ],
)
def test_refusals_are_one_line_without_the_token(hub, adapter, capfd, right, direction, message):
    published(hub)
    hub.tokens[TOKEN] = right
    with pytest.raises(HubError, match=message) as caught:
        push(adapter, REPO) if direction == "push" else pull("alice/lost" if direction == "lost" else REPO)
    assert "\n" not in str(caught.value)
    assert TOKEN not in "".join(traceback.format_exception(caught.value))
    assert TOKEN not in "".join(capfd.readouterr())


def test_a_private_repository_without_a_token_is_told_like_a_missing_one(hub, monkeypatch):
    published(hub)
    hub.repos[REPO].private = True
    assert pull(REPO).files
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(HubError, match=r"answered 401 \(Repository not found\).*set HF_TOKEN"):
        pull(REPO)


def test_a_gated_repository(hub):
    published(hub)
    hub.gated = "/revision/"
    with pytest.raises(HubError, match="the repository is gated: ask for access on its page"):
        pull(REPO)


def test_no_hub_there(hub, monkeypatch, no_sleep):
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(
        HubError, match=r"http://127.0.0.1:9 cannot be reached.*check the network, the proxy and HF_ENDP"
    ):
        pull(REPO)
    assert no_sleep == [1, 2]


def test_offline_means_the_cache(hub, monkeypatch):
    published(hub)
    folder = resolve_adapter(REPO)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    hub.log.clear()
    assert resolve_adapter(REPO) == folder
    assert contents(pull(REPO).path) == contents(shared_shelf().paths["deep"])
    with pytest.raises(HubError, match="HF_HUB_OFFLINE is set, and the cache does not hold it"):
        pull("alice/other")
    assert hub.log == []
