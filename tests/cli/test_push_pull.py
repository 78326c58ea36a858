"""`ssft push` and `ssft pull`: what they print, and that a real process finds hub and token in its environment."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

from click.testing import CliRunner
from hub_shelf import REPO
from loopback_hub import TOKEN, LoopbackHub
from shelf import PLAIN, shared_shelf

from ssft.bundle.read import read_bundle
from ssft.card.write import card_files
from ssft.cli.main import cli


def contents(adapter):
    """What is pushed of a folder: its files, with a card that names the repository."""
    return {path.name: path.read_bytes() for path in adapter.iterdir()} | card_files(read_bundle(adapter), REPO)


def invoke(*args):
    return CliRunner().invoke(cli, list(map(str, args)))


def process(hub, folder, *args):
    """A process of its own, whose huggingface_hub reads the environment."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "HUGGING"))}
    environment |= {"HF_ENDPOINT": hub.url, "HF_TOKEN": TOKEN, "HF_HOME": str(folder / "home")}
    environment |= {"HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
    command = [sys.executable, "-m", "ssft", *map(str, args)]
    return subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True, check=False)


def test_processes_find_hub_and_token_and_tell_nobody(tmp_path):
    with LoopbackHub() as hub:
        hub.tokens[TOKEN] = "write"
        source = shared_shelf().paths["deep"]
        pushed = process(hub, tmp_path, "push", source, REPO, "--private")
        assert pushed.returncode == 0, pushed.stderr
        commit = hub.repos[REPO].branches["main"]
        assert pushed.stdout.splitlines()[-1] == f"{hub.url}/{REPO}/commit/{commit}"

        pulled = process(hub, tmp_path, "pull", REPO, "--json")
        assert pulled.returncode == 0, pulled.stderr
        facts = json.loads(pulled.stdout)
        assert (facts["repo"], facts["revision"], facts["commit"]) == (REPO, "main", commit)
        assert facts["path"] == "adapters/deep-one"
        assert facts["bytes"] == sum(facts["files"].values())
        assert facts["streams"]["num_streams"] == 3
        own = contents(source)
        assert {name: len(data) for name, data in own.items()} == facts["files"]
        assert {name: (tmp_path / facts["path"] / name).read_bytes() for name in facts["files"]} == own

        hub.tokens.clear()
        refused = process(hub, tmp_path, "pull", REPO, "--output", "other")
        assert refused.returncode == 2
        assert refused.stdout == ""
        assert refused.stderr.splitlines()[-1].startswith(f"error: {REPO} on {hub.url}: the hub answered 401")
        assert not (tmp_path / "other").exists()

        assert {entry.token for entry in hub.requests("POST", "/commit/")} == {TOKEN}  # it was used
        for done in (pushed, pulled, refused):
            assert TOKEN not in done.stdout + done.stderr
        files = [path for path in tmp_path.rglob("*") if path.is_file()]
        assert len(files) > len(facts["files"])
        assert [path for path in files if TOKEN.encode() in path.read_bytes()] == []


def test_push_as_json(hub, tmp_path):
    adapter = shutil.copytree(shared_shelf().paths["deep"], tmp_path / "mine")
    facts = json.loads(invoke("push", adapter, REPO, "--create-pr", "--json").stdout)
    assert facts["pull_request"] == f"{hub.url}/{REPO}/discussions/1"
    assert facts["commit"] == hub.repos[REPO].branches["refs/pr/1"]
    assert (facts["repo"], facts["revision"], facts["changed"]) == (REPO, "main", True)
    assert facts["files"] == {name: len(data) for name, data in contents(adapter).items()}
    assert facts["bytes"] == sum(facts["files"].values())


def test_push_says_where_it_is_and_when_nothing_changed(hub):
    source = shared_shelf().paths["deep"]
    first = invoke("push", source, REPO, "--revision", "v2").stdout.splitlines()
    second = invoke("push", source, REPO, "--revision", "v2").stdout.splitlines()
    total = f"{sum(map(len, contents(source).values())):,}"
    assert first[0] == f"pushed 7 files, {total} bytes, to {REPO} (v2)"
    assert second == [f"{REPO} (v2) holds these files already", first[1]]


def test_pull_says_what_a_bundle_is(hub):
    assert invoke("push", shared_shelf().paths["deep"], REPO).exit_code == 0
    result = invoke("pull", REPO, "--output", "here")
    assert result.exit_code == 0, result.output
    first, second, third = result.stdout.splitlines()
    assert first == f"pulled {REPO} (main, commit {hub.repos[REPO].branches['main'][:12]}) to here"
    assert second.startswith("7 files, ")
    assert second.endswith(f" bytes; base {json.loads(Path('here/ssft_config.json').read_text())['base']['id']}")
    assert third == "3 streams in the top 2 layers"


def test_pull_says_that_a_plain_lora_has_no_streams(hub):
    plain = shared_shelf().paths[PLAIN]
    hub.create(REPO, {path.name: path.read_bytes() for path in plain.iterdir()})
    result = invoke("pull", REPO)
    assert result.exit_code == 0, result.output
    assert "It has no streams: a plain LoRA, decoded one token per pass" in result.stdout
    assert json.loads(invoke("pull", REPO, "--json").stdout)["streams"] is None


def test_inspect_of_what_was_pulled(hub):
    assert invoke("push", shared_shelf().paths["many"], REPO).exit_code == 0
    assert invoke("pull", REPO).exit_code == 0
    facts = json.loads(invoke("inspect", "adapters/deep-one", "--json").stdout)
    assert facts["streams"]["num_streams"] == 5
