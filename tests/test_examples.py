"""The examples run, and what they print is what the model says."""

import json
import random
import re

import bitsandbytes
import pytest
import torch
from embedded_base import BASE, needs_base
from shelf import SHELF, Reference, save_adapter
from tiny_base import save_tiny_base, tiny_tokenizer
from transformers import AutoTokenizer

from examples import chat_prompts, pass_costs, switch_tasks
from ssft.base.chat import render_prompt
from ssft.base.embedded import base_path
from ssft.recipes.data import load_rows
from ssft.recipes.quickstart import quickstart_rows
from ssft.recipes.recipe import load_recipe

TOKENS = 8
NAMES = {"sql": "deep", "quickstart": "projected"}


@pytest.fixture(scope="module")
def shelf(tmp_path_factory):
    """(base, {name: folder}): two adapters named as recipes, under `adapters/`."""
    folder = tmp_path_factory.mktemp("tasks")
    base = save_tiny_base(folder / "base")
    paths = {
        name: save_adapter(folder / "adapters" / name, base, *SHELF[kind], seed)
        for seed, (name, kind) in enumerate(NAMES.items())
    }
    return base, paths


def run(capsys, *arguments):
    """(exit code, stdout, stderr) of `examples/switch_tasks.py`."""
    try:
        code = switch_tasks.main([str(argument) for argument in arguments])
    except SystemExit as stopped:
        code = stopped.code
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def said(base, paths, prompt, adapter):
    """What peft says after a prompt, as text."""
    tokenizer = tiny_tokenizer()
    ids = Reference(base, paths)(tokenizer(prompt)["input_ids"], adapter, TOKENS, eos=[tokenizer.eos_token_id])
    return tokenizer.decode(ids, skip_special_tokens=True)


def test_every_task_answers_with_its_own_adapter(shelf, capsys, auto):
    base, paths = shelf
    options = ["--base", base, "--quantization", "none", "--max-new-tokens", TOKENS]
    code, text, _ = run(capsys, *paths.values(), *options)
    assert code == 0
    for name in NAMES:
        prompt = switch_tasks.PROMPTS[name]
        own, bare = said(base, paths, prompt, name), said(base, paths, prompt, None)
        assert own != bare
        assert f"--- {name}\n{prompt}{own}\n(" in text
        after = text.partition(f"--- {name}\n")[2].partition("--- the bare base on the same prompt\n")[2]
        assert after.startswith(f"{bare}\n")
    assert len(re.findall(r"\(\d\.\d\d tokens per call\)", text)) == 2
    account = dict(re.findall(r"^(\w+) +([\d,]+) bytes", text, re.MULTILINE))
    assert list(account) == ["base", "sql", "quickstart", "together"]
    sizes = {name: int(value.replace(",", "")) for name, value in account.items()}
    assert sizes["together"] == sizes["base"] + sizes["sql"] + sizes["quickstart"]


def test_four_bits_and_every_folder_by_default(shelf, capsys, monkeypatch, tmp_path, packing, auto):
    base, paths = shelf
    monkeypatch.chdir(base.parent)
    prompts = tmp_path / "prompts.jsonl"
    rows = [{"prompt": "one", "adapter": "quickstart"}, {"prompt": "two", "adapter": "sql"}]
    prompts.write_text("".join(json.dumps(row) + "\n" for row in [*rows, {"prompt": "three", "adapter": None}]))
    options = ["--base", base, "--dtype", "auto", "--max-new-tokens", 2]
    code, text, _ = run(capsys, *options, "--prompts", prompts)
    assert code == 0
    assert [line for line in text.splitlines() if line.startswith("--- ") and "bare" not in line] == [
        "--- quickstart",
        "--- sql",
        "--- None",
    ]
    half = int(re.search(r"^base +([\d,]+) bytes", text, re.MULTILINE)[1].replace(",", ""))
    full = sum(file.stat().st_size for file in base.glob("*.safetensors"))
    assert half < full / 2
    assert set(re.findall(r"^(sql|quickstart) ", text, re.MULTILINE)) == set(paths)


@needs_base
def test_the_prompt_of_a_chat_is_what_the_chat_template_of_the_base_makes():
    tokenizer = AutoTokenizer.from_pretrained(base_path(BASE))
    question = "Write a short email to Ana that asks to move the meeting to next week."
    assert (
        render_prompt({"messages": [{"role": "user", "content": question}]}, tokenizer) == switch_tasks.PROMPTS["chat"]
    )


@pytest.mark.parametrize("name", sorted(switch_tasks.PROMPTS.keys() - {"chat"}))
def test_prompts_are_in_the_form_of_the_recipe(name):
    data = load_recipe(name).data
    template = data.prompt_template
    if data.train == "quickstart":
        template = "Turn the order into JSON and a confirmation.\n\nOrder {order}\n\nAnswer:\n"
        assert re.match("Turn .*\n\nOrder ", quickstart_rows(1, 0)[0]["prompt"])
    form = "".join(".+" if part.startswith("{") else re.escape(part) for part in re.split(r"(\{\w+\})", template))
    assert re.fullmatch(form, switch_tasks.PROMPTS[name], re.DOTALL)


def test_what_is_missing_is_told(shelf, capsys, monkeypatch, tmp_path):
    base, paths = shelf
    monkeypatch.chdir(tmp_path)
    code, _, errors = run(capsys)
    assert code == 2
    assert "no folder under adapters/ holds an adapter" in errors
    other = save_adapter(tmp_path / "other", base, *SHELF["small"])
    code, _, errors = run(capsys, other)
    assert code == 2
    assert "no prompt: give --prompts FILE; without it there are prompts for chat, sql, e2e_nlg" in errors
    (tmp_path / "prompts.jsonl").write_text('{"prompt": "x", "adapter": "sql"}\n{"prompt": "y"}\n')
    code, _, errors = run(capsys, paths["sql"], "--base", base, "--prompts", "prompts.jsonl")
    assert code == 2
    assert "error: prompts.jsonl, row 2: needs `prompt` and `adapter`" in errors
    (tmp_path / "prompts.jsonl").write_text('{"prompt": "x", "adapter": "sqr"}\n')
    code, _, errors = run(capsys, paths["sql"], "--base", base, "--prompts", "prompts.jsonl")
    assert code == 2
    assert "error: adapter 'sqr' is not loaded; loaded are: 'sql'" in errors


def test_prompts_from_templates_are_rows_of_every_kind_and_a_seed_gives_one_file(tmp_path, monkeypatch):
    texts = tmp_path / "texts.jsonl"
    texts.write_text(json.dumps({"prompt": "A text of my own."}) + "\n")

    def made(seed, name, *more):
        path = tmp_path / name
        words = ["chat_prompts.py", "--count", "70", "--seed", seed, "--output", str(path), *more]
        monkeypatch.setattr("sys.argv", words)
        chat_prompts.main()
        return path

    one, other = made("1", "a.jsonl"), made("2", "b.jsonl")
    assert one.read_bytes() == made("1", "c.jsonl").read_bytes() != other.read_bytes()
    rows = load_rows(one, need_completion=False)
    assert len({row["messages"][0]["content"] for row in rows}) == 70
    assert {row["category"] for row in rows} == set(chat_prompts.makers(random.Random(0), []))
    assert "{" not in one.read_text().replace('{"', "")
    assert "A text of my own." in made("1", "d.jsonl", "--texts", str(texts)).read_text()


# --- what passes cost ---


@needs_base
@pytest.mark.parametrize("quantization", ["none", "4bit"])
def test_passes_of_a_random_base_have_a_price(quantization, capsys):
    pass_costs.main(["tiny", "--device", "cpu", "--quantization", quantization])
    head, *_, row = capsys.readouterr().out.strip().splitlines()
    assert ("NF4" in head) is (quantization == "4bit")
    assert row.startswith("| tiny | operator by operator |")
    prices = [float(cell) for cell in re.findall(r"(\d+\.\d+) \(", row)]
    assert len(prices) == len(pass_costs.PASSES)
    assert 0 < prices[0] == min(prices)


@needs_base
def test_a_quantised_random_base_has_its_layers_in_four_bits():
    model = pass_costs.opened("tiny", torch.device("cpu"), torch.float32, "4bit").unload()
    kinds = {type(module) for module in model.model.layers.modules() if isinstance(module, torch.nn.Linear)}
    assert kinds == {bitsandbytes.nn.Linear4bit}
