"""docs/first-adapter.md from its first command to its last, in one folder, on a tiny base."""

import csv

from documents import blocks, commands
from test_doc_blocks import BASE, PAGE, invoke, small
from tiny_base import save_tiny_base

from ssft.bundle.read import read_bundle


def test_the_page_leads_to_an_adapter(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save_tiny_base(tmp_path / BASE)
    steps = [block for language in ("bash", "python") for block in blocks(language) if block.document == PAGE]
    printed = {}
    for block in sorted(steps, key=lambda block: block.line):
        if block.language == "python":
            exec(compile(block.text, str(block), "exec"), {})
            continue
        for program, *arguments in commands(block):
            if program == "ssft":
                printed[arguments[0]] = invoke(*small(arguments))
    with open("new_orders.csv", newline="") as file:
        first = next(csv.DictReader(file))
    bundle = read_bundle("outputs/orders")
    assert bundle.stream_config.num_streams == 4
    assert bundle.provenance["data"]["train"]["name"] == "orders.csv"
    assert f"{first['text']}\\n\\nJSON:\\n" in printed["generate"]
    assert "metric json (auto: the references are JSON objects)" in printed["eval"]
    assert "field_match" in printed["eval"]
    assert list(printed) == ["train", "generate", "eval", "verify", "bench"]
