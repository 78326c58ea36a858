"""`ssft verify`: exit codes, the JSON, and a planted difference."""

import hashlib
import json
import sys

import pytest
from click.testing import CliRunner
from fake_adapted import fake_adapted
from tiny_base import save_rows

from ssft.bench.methods import streaming
from ssft.cli.main import cli
from ssft.runtime import loader


@pytest.fixture
def data(tmp_path):
    return save_rows(tmp_path / "rows.jsonl", [{"prompt": f"5 {i} 7"} for i in range(9, 13)])


@pytest.fixture
def adapted(monkeypatch):
    value = fake_adapted()
    monkeypatch.setattr(loader, "load_adapted", lambda *_, **__: value)
    return value


@pytest.fixture
def planted(monkeypatch):
    """Streaming then errs in the fourth token of the third row and loses the end of the last row."""
    run = streaming.Method.run

    def wrong(self, prompts):
        results = run(self, prompts)
        for prompt, result in zip(prompts, results, strict=True):
            if prompt[1] == 11:
                result.token_ids[3] = (result.token_ids[3] + 1) % 61
            if prompt[1] == 12:
                del result.token_ids[-2:]
        return results

    monkeypatch.setattr(streaming.Method, "run", wrong)


def run(*args):
    return CliRunner().invoke(cli, ["verify", *map(str, args), "--max-new-tokens", "10"])


@pytest.mark.parametrize("against", ["plain", "generate"])
@pytest.mark.parametrize("batch_size", [1, 3])
def test_equal_outputs_exit_0(adapted, data, against, batch_size):
    result = run("any", "--data", data, "--json", "--against", against, "--batch-size", batch_size)
    assert result.exit_code == 0, result.output
    facts = json.loads(result.stdout)
    assert (facts["rows"], facts["identical"], facts["differences"]) == (4, 4, [])
    assert (facts["precision"], facts["device"], facts["against"]) == ("float32", adapted.device, against)
    assert (facts["kind"], facts["adapter"], facts["adapter_sha256"]) == ("verify", "tiny", "")
    assert facts["data"] == {"name": "rows.jsonl", "sha256": hashlib.sha256(data.read_bytes()).hexdigest()}
    assert facts["calls"] < facts["tokens"] == 40
    text = run("any", "--data", data, "--against", against).stdout
    assert f"4 of 4 outputs are the same as {against}'s" in text


def test_the_limit_and_the_tree_count(adapted, data):
    facts = json.loads(run("any", "--data", data, "--json", "--limit", "2", "--tree", "max_nodes=5").stdout)
    assert facts["rows"] == 2
    assert facts["tree"]["max_nodes"] == 5


@pytest.mark.usefixtures("adapted")
def test_the_result_goes_to_a_file_with_its_command(data, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["ssft", "verify", "any", "--data", str(data)])
    output = tmp_path / "new" / "verify.json"
    result = run("any", "--data", data, "--json", "--output", output)
    assert json.loads(output.read_text()) == json.loads(result.stdout)
    assert json.loads(output.read_text())["command"] == "ssft verify any --data rows.jsonl"
    assert [path.name for path in output.parent.iterdir()] == ["verify.json"]


def test_a_file_that_cannot_be_written_is_told_before_the_base_is_loaded(data, tmp_path, monkeypatch):
    monkeypatch.setattr(loader, "load_adapted", lambda *_, **__: pytest.fail("loaded"))
    result = run("any", "--data", data, "--output", data / "verify.json")
    assert result.exit_code == 2
    assert "verify.json: its folder cannot be made" in result.stderr


@pytest.mark.usefixtures("planted")
def test_differences_are_written_too(adapted, data, tmp_path):
    assert run("any", "--data", data, "--output", tmp_path / "v.json").exit_code == 1
    assert json.loads((tmp_path / "v.json").read_text())["identical"] == 2


@pytest.mark.usefixtures("planted")
@pytest.mark.parametrize("batch_size", [1, 3])
def test_differences_exit_1_with_row_position_and_margin(adapted, data, batch_size):
    result = run("any", "--data", data, "--json", "--batch-size", batch_size)
    assert result.exit_code == 1
    facts = json.loads(result.stdout)
    assert (facts["rows"], facts["identical"]) == (4, 2)
    assert [(d["row"], d["position"]) for d in facts["differences"]] == [(2, 3), (3, 8)]
    assert all(d["margin"] > 0 for d in facts["differences"])
    assert [d["got"] is None for d in facts["differences"]] == [False, True]
    text = run("any", "--data", data)
    assert text.exit_code == 1
    assert "2 of 4 outputs are the same as plain's" in text.stdout
    assert "margin" in text.stdout


def test_an_adapter_without_streams_is_wrong_input(monkeypatch, data):
    monkeypatch.setattr(loader, "load_adapted", lambda *_, **__: fake_adapted(streams=False))
    result = run("any", "--data", data)
    assert result.exit_code == 2
    assert "has no streams, so there is nothing to verify" in result.stderr


@pytest.mark.usefixtures("adapted")
def test_without_data_the_adapters_own_validation_rows_are_taken(tmp_path):
    result = run(tmp_path)
    assert result.exit_code == 2
    assert "give prompts with --data FILE" in result.stderr
    save_rows(tmp_path / "own.jsonl", [{"prompt": "5 6 7", "completion": "8"}] * 3)
    (tmp_path / "run.yaml").write_text(f"data:\n  train: quickstart\n  validation: {tmp_path / 'own.jsonl'}\n")
    facts = json.loads(run(tmp_path, "--json").stdout)
    assert (facts["rows"], facts["data"]) == (3, None)
