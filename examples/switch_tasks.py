"""Several tasks over one 4-bit base: one batch with a prompt of each, and what they take in memory together.

    python examples/switch_tasks.py                                  # every folder under adapters/
    python examples/switch_tasks.py adapters/sql adapters/e2e_nlg --prompts prompts.jsonl

A row of the prompts' file has `prompt` and `adapter` (a folder's name, or null for the bare base).
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from ssft.base.load import DTYPES
from ssft.errors import SSFTError
from ssft.runtime.model import MultiAdapterModel

# One for each recipe, in the form that it was trained with; a chat's is what the base's chat template makes of it.
PROMPTS = {
    "chat": "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"
    "<|im_start|>user\nWrite a short email to Ana that asks to move the meeting to next week.<|im_end|>\n"
    "<|im_start|>assistant\n",
    "sql": "Write one SQL query that answers the question.\n\n"
    "Schema:\nCREATE TABLE table_1_1500_2 (player VARCHAR, country VARCHAR, points INTEGER)\n\n"
    "Question: Which player from Norway has more than 20 points?\n\nSQL:\n",
    "e2e_nlg": "Describe the restaurant in one or two sentences.\n\n"
    "name[The Golden Palace], eatType[coffee shop], food[Indian], priceRange[cheap], area[riverside]\n\nDescription:\n",
    "dialogsum": "Summarize the dialogue.\n\n"
    "#Person1#: Did you book the flight to Rome?\n#Person2#: Not yet, the morning flight is full.\n"
    "#Person1#: Then take the one at noon, please.\n#Person2#: All right, I will book two seats.\n\nSummary:\n",
    "quickstart": "Turn the order into JSON and a confirmation.\n\n"
    "Order 517: Emma Fisher, Vienna, 3 x blue glass vase, express\n\nAnswer:\n",
}


def switch_tasks(folders: list[Path], rows: list[dict], base: dict[str, Any], max_new_tokens: int) -> None:
    """The example itself; `rows` have `prompt` and `adapter`, `base` is what loads the base."""
    model = MultiAdapterModel.from_pretrained(**base)
    for folder in folders:
        model.load_adapter(folder)

    prompts = [row["prompt"] for row in rows]
    options: dict[str, Any] = {"max_new_tokens": max_new_tokens, "return_dict": True}
    answers = model.generate(prompts, adapter=[row["adapter"] for row in rows], **options)  # one mixed batch
    bare = model.generate(prompts, adapter=None, **options)

    for row, answer, without in zip(rows, answers, bare, strict=True):
        print(f"--- {row['adapter']}\n{row['prompt']}{answer['text']}")
        print(f"({answer['tokens'] / answer['calls']:.2f} tokens per call)")
        print(f"--- the bare base on the same prompt\n{without['text']}\n")

    account = model.memory()
    print(f"{'base':<20}{account['base']:>15,} bytes")
    for name, entry in account["adapters"].items():
        print(f"{name:<20}{entry['bytes']:>15,} bytes, {entry['bytes'] / entry['file_bytes']:.2f} of its files")
    print(f"{'together':<20}{account['base'] + account['adapters_resident']:>15,} bytes")


def read_prompts(path: Path) -> list[dict]:
    """Rows of a JSONL file; raises `ValueError` for one without `prompt` or `adapter`."""
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    for number, row in enumerate(rows, start=1):
        if not isinstance(row, dict) or not {"prompt", "adapter"} <= row.keys():
            raise ValueError(f"{path}, row {number}: needs `prompt` and `adapter`")
    return rows


def main(argv: list[str] | None = None) -> int:
    """Exit code: 2 for wrong input."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("adapters", nargs="*", type=Path, help="adapter folders; default: all under adapters/")
    parser.add_argument("--base", default="smollm2-135m", help="alias, folder or hub id (%(default)s)")
    parser.add_argument("--quantization", choices=["none", "4bit"], default="4bit")
    help_dtype = "data type to compute in; in float32 a row's text is that of its prompt alone (%(default)s)"
    parser.add_argument("--dtype", choices=DTYPES, default="float32", help=help_dtype)
    parser.add_argument("--prompts", type=Path, metavar="FILE", help="JSONL with `prompt` and `adapter`")
    parser.add_argument("--max-new-tokens", type=int, default=64)
    arguments = parser.parse_args(argv)
    folders = arguments.adapters or sorted(path.parent for path in Path("adapters").glob("*/adapter_config.json"))
    if not folders:
        parser.error("no folder under adapters/ holds an adapter; name one, as `ssft train` writes them")
    try:
        if arguments.prompts:
            rows = read_prompts(arguments.prompts)
        else:
            names = [folder.resolve().name for folder in folders]
            rows = [{"prompt": PROMPTS[name], "adapter": name} for name in names if name in PROMPTS]
        if not rows:
            parser.error(f"no prompt: give --prompts FILE; without it there are prompts for {', '.join(PROMPTS)}")
        base = {"base": arguments.base, "quantization": arguments.quantization, "dtype": arguments.dtype}
        switch_tasks(folders, rows, base, arguments.max_new_tokens)
    except (SSFTError, OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
