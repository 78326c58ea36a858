"""The group: commands are found on disk, errors become exit codes, help stays light."""

import json
import re
import subprocess
import sys

import click
import pytest
from click.testing import CliRunner

from ssft._version import __version__
from ssft.base.named import ALIASES
from ssft.cli import _options
from ssft.cli import main as main_module
from ssft.cli.main import FOLDER, cli, discover, main, summary
from ssft.errors import DataError

COMMANDS = sorted(
    path.stem.replace("_", "-") for path in FOLDER.glob("*.py") if path.stem != "main" and path.stem[0] != "_"
)


def run_main(*args):
    """Exit code of the console entry point."""
    with pytest.raises(SystemExit) as stopped:
        main(list(args))
    return stopped.value.code


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help_and_a_summary(name):
    result = CliRunner().invoke(cli, [name, "--help"])
    assert result.exit_code == 0, result.output
    assert "Usage:" in result.output
    assert summary(discover()[name]).endswith(".")


def test_help_lists_every_command_and_imports_no_torch():
    code = (
        "import sys\nfrom ssft.cli.main import main\ntry:\n    main(['--help'])\n"
        "finally:\n    assert not {'torch', 'transformers'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for name in COMMANDS:
        assert f"\n  {name} " in done.stdout


def test_python_m_ssft_is_the_command():
    done = subprocess.run([sys.executable, "-m", "ssft", "--version"], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == f"ssft, version {__version__}"


def test_an_unknown_command_gets_a_suggestion(capsys):
    assert run_main("bsaes") == 2
    assert "No such command 'bsaes'; did you mean 'bases'?" in capsys.readouterr().err


def test_a_name_like_nothing_gets_the_list(capsys):
    assert run_main("qqqq") == 2
    assert f"commands are {', '.join(COMMANDS)}" in capsys.readouterr().err


def test_an_unknown_option_is_wrong_input(capsys):
    assert run_main("env", "--jsn") == 2
    assert "--json" in capsys.readouterr().err


@pytest.fixture
def extra_command(monkeypatch):
    """Put one more command into the group, by name."""

    def put(name, command):
        monkeypatch.setattr(main_module, "discover", lambda: {**discover(), name: FOLDER / "env.py"})
        original = main_module.CommandFiles.get_command
        monkeypatch.setattr(
            main_module.CommandFiles,
            "get_command",
            lambda self, ctx, wanted: command if wanted == name else original(self, ctx, wanted),
        )

    return put


def test_an_ssft_error_exits_2_without_traceback(extra_command, capsys):
    @click.command()
    def command():
        raise DataError("row 3 has no prompt")

    extra_command("broken", command)
    assert run_main("broken") == 2
    captured = capsys.readouterr()
    assert captured.err == "error: row 3 has no prompt\n"
    assert captured.out == ""


def test_other_errors_keep_their_traceback(extra_command):
    @click.command()
    def command():
        raise ZeroDivisionError

    extra_command("buggy", command)
    with pytest.raises(ZeroDivisionError):
        main(["buggy"])


def test_an_interrupt_exits_130(extra_command):
    @click.command()
    def command():
        raise KeyboardInterrupt

    extra_command("slow", command)
    assert run_main("slow") == 130


def test_a_failed_check_exits_1(extra_command):
    @click.command()
    @click.pass_context
    def command(ctx):
        ctx.exit(1)

    extra_command("check", command)
    assert run_main("check") == 1


def test_an_unknown_base_is_wrong_input(capsys):
    assert run_main("bases", "fetch", "smollm2") == 2
    assert capsys.readouterr().err.startswith("error: 'smollm2' is no alias of a base; did you mean")


def test_bases_as_json(tmp_path, monkeypatch):
    monkeypatch.setenv("SSFT_CACHE", str(tmp_path))
    result = CliRunner().invoke(cli, ["bases", "--json"])
    bases = {base["alias"]: base for base in json.loads(result.stdout)["bases"]}
    assert list(bases) == list(ALIASES)
    base = bases["smollm2-135m"]
    assert (base["parameters"], base["layers"], base["embedded"]) == (134_515_008, 30, True)
    assert (base["fetched"], base["bytes"]) == (False, None)
    assert bases["qwen3-0.6b"]["hub_id"] == "Qwen/Qwen3-0.6B"
    assert {name for name, base in bases.items() if base["gated"]} == {"llama-3.2-1b", "gemma-3-270m"}


def test_bases_as_a_table(tmp_path, monkeypatch):
    monkeypatch.setenv("SSFT_CACHE", str(tmp_path))
    monkeypatch.setenv("COLUMNS", "200")
    result = CliRunner().invoke(cli, ["bases"])
    (line,) = (line for line in result.stdout.splitlines() if line.startswith("smollm2-135m"))
    assert "Apache-2.0" in line
    assert re.search(r"  135 M +30  a Python package +no +–", line)
    assert all(base.licence in result.stdout for base in ALIASES.values())


def test_print_json_knows_numbers_paths_and_nan(capsys, tmp_path):
    torch = pytest.importorskip("torch")
    _options.print_json({"nan": float("nan"), "path": tmp_path, "tensor": torch.tensor(2), "list": (1, "γ")})
    assert json.loads(capsys.readouterr().out) == {"nan": None, "path": str(tmp_path), "tensor": 2, "list": [1, "γ"]}


def test_table_prints_brackets_as_they_are(capsys):
    _options.table([["[bold]", 1], ["b", 2000]], ["name", "count"])
    assert "[bold]" in (out := capsys.readouterr().out)
    assert "2,000" in out


@pytest.mark.parametrize(("columns", "widest"), [(None, 107), ("40", 40)])
def test_a_pipe_has_no_width_unless_one_is_asked_for(columns, widest, capsys, monkeypatch):
    monkeypatch.delenv("COLUMNS", raising=False)
    if columns is not None:
        monkeypatch.setenv("COLUMNS", columns)
    _options.table([["key", "a" * 50 + " " + "b" * 50]], ["what", "value"])
    assert max(map(len, capsys.readouterr().out.splitlines())) == widest


def test_threads_are_held_also_where_none_are_given(monkeypatch):
    torch = pytest.importorskip("torch")
    seen = []
    monkeypatch.setattr(torch, "get_num_threads", lambda: seen[-1] if seen else 5)
    monkeypatch.setattr(torch, "set_num_threads", seen.append)
    _options.set_threads(None)
    _options.set_threads(3)
    assert seen == [5, 3]


def test_shared_options_reach_the_command_with_overrides():
    @click.command()
    @_options.together(_options.quantization_option(), _options.limit_option())
    @_options.max_new_tokens_option(default=7)
    @_options.json_option()
    def command(**options):
        _options.print_json(options)

    result = CliRunner().invoke(command, ["--quantization", "4bit", "--limit", "3"])
    assert json.loads(result.stdout) == {
        "quantization": "4bit",
        "limit": 3,
        "max_new_tokens": 7,
        "as_json": False,
    }
    assert CliRunner().invoke(command, ["--limit", "0"]).exit_code == 2
