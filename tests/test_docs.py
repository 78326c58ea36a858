"""The documents name what exists, are as short as promised, and their numbers are those of the adapters' results."""

import json
import re
import shutil

import pytest
from documents import DOCUMENTS, ROOT, read, without_tables_from_results

from docs import tables
from ssft.cli.main import cli, discover
from ssft.recipes.recipe import recipe_names


@pytest.mark.parametrize("document", DOCUMENTS)
def test_named_commands_exist(document):
    used = set(re.findall(r"`ssft ([a-z]+)", read(document)))
    assert used <= set(discover())


def test_every_command_has_its_place_in_the_list():
    text = read("docs/commands.md")
    for name in discover():
        command = cli.get_command(None, name)
        shown = [sub for sub, value in getattr(command, "commands", {}).items() if not value.hidden]
        for line in [f"ssft {name}", *(f"ssft {name} {sub}" for sub in shown)]:
            assert f"`{line}" in text, f"docs/commands.md does not explain `{line}`"
            assert re.search(rf"^{line}( |$)", text, re.MULTILINE), f"docs/commands.md has no example of `{line}`"


def test_every_recipe_is_listed():
    text = read("docs/training.md")
    for recipe in recipe_names():
        assert f"| `{recipe}` |" in text, f"docs/training.md does not list the recipe {recipe}"


@pytest.mark.parametrize("document", DOCUMENTS)
def test_named_paths_exist(document):
    text = read(document)
    for path in re.findall(r"\]\(([^)#:]+)\)", text):
        assert (ROOT / document).parent.joinpath(path).exists(), path
    for path in re.findall(r"`((?:ssft|tests|docs|examples|recipes)/[\w./]+)`", text):
        assert (ROOT / path).exists(), path


def test_named_sections_of_the_log_exist():
    log = read("docs/log.md")
    for document in DOCUMENTS:
        for title in re.findall(r"log\.md(?:\))?,\s+\"([^\"]+)\"", read(document)):
            title = " ".join(title.split())
            assert re.search(rf"^## {re.escape(title)}", log, re.MULTILINE), f"{document}: {title}"


def test_the_readme_is_short():
    assert len(read("README.md").encode()) <= 10_240


def test_set_up_commands_are_make_targets():
    targets = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert {"setup", "demo", "test"} <= targets
    assert "make test" in (ROOT / ".ci" / "run").read_text()


# -- tables of measured numbers -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def built():
    adapters = list(tables.shipped())
    return {name: build(adapters) for name, build in tables.TABLES.items()}


@pytest.mark.parametrize("document", tables.DOCUMENTS)
def test_tables_are_what_the_results_say(document, built):
    assert tables.written(document, built) == read(document), "run python docs/tables.py"


def test_every_table_stands_in_a_document():
    placed = {name for document in tables.DOCUMENTS for _, name, _ in tables.PLACE.findall(read(document))}
    assert placed == set(tables.TABLES)


# The log is a diary: what it holds was true of adapters and code that are gone.
@pytest.mark.parametrize("document", [document for document in DOCUMENTS if document != "docs/log.md"])
def test_no_other_table_holds_a_measured_number(document):
    rows = [line for line in without_tables_from_results(read(document)).splitlines() if line.startswith("|")]
    assert [line for line in rows if re.search(r"\d\.\d|×", line)] == []


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    """A copy of what `docs/tables.py` reads and writes."""
    for name in tables.DOCUMENTS:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    shutil.copytree(ROOT / "adapters", tmp_path / "adapters", dirs_exist_ok=True)
    shutil.copytree(ROOT / "docs" / "drafts", tmp_path / "docs" / "drafts")
    monkeypatch.setattr(tables, "ROOT", tmp_path)
    return tmp_path


def test_another_result_is_told_and_then_written(elsewhere, capsys):
    path = elsewhere / "adapters" / "sql" / "results.json"
    results = json.loads(path.read_text())
    # The run that README speaks of is the one beside a compiled `generate`.
    (methods,) = [run["methods"] for run in results["results"] if tables.COMPILED in run.get("methods", {})]
    timed = methods["streaming"]
    timed["calls"] = timed["tokens"] // 8
    path.write_text(json.dumps(results))
    told = f"| [sql](adapters/sql/README.md) | {timed['tokens'] / timed['calls']:.2f} | {timed['speedup']:.2f} ×"
    assert tables.main(["--check"]) == 1
    assert "results: README.md, docs/benchmarks.md; run python docs/tables.py" in capsys.readouterr().err
    assert told not in (elsewhere / "README.md").read_text()
    assert tables.main([]) == 0
    assert told in (elsewhere / "README.md").read_text()
    assert tables.main(["--check"]) == 0


def test_a_table_of_drafts_has_no_holes(elsewhere):
    (elsewhere / "docs" / "drafts" / "own_sql.json").unlink()
    with pytest.raises(ValueError, match=r"docs/drafts: holds .*, expected each of own, mixed, chat for every task"):
        tables.drafts([])


def test_results_of_other_weights_and_unknown_tables_are_refused(elsewhere):
    results = elsewhere / "adapters" / "sql" / "results.json"
    text = results.read_text()
    results.write_text(re.sub(r'("adapter_sha256": ")\w{64}', rf"\g<1>{'0' * 64}", text))
    with pytest.raises(ValueError, match=r"sql: results of an earlier state .* are in results\.json; measure again"):
        list(tables.shipped())
    results.write_text(text)
    page = elsewhere / "docs" / "benchmarks.md"
    page.write_text(page.read_text().replace("ssft:table runs", "ssft:table rungs"))
    with pytest.raises(ValueError, match=r"docs/benchmarks\.md: no table is named 'rungs'; tables are speed, runs"):
        tables.main(["--check"])
