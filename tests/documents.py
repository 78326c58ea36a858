"""The documents for people: README, CONTRIBUTING and docs/, the blocks of code in them, and the commands in those."""

import re
import shutil
import subprocess
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
DOCUMENTS = ["README.md", "CONTRIBUTING.md", "adapters/README.md"]
DOCUMENTS += sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "docs").glob("*.md"))

# What a block may call. Each writes down its arguments; whatever else a block calls is an error of bash's.
PRELUDE = r"""
set -euf
for name in ssft make pip python torchrun; do
    eval "$name() { printf '%s\0' $name \"\$@\" $'\x1e'; }"
done
"""


class Block(NamedTuple):
    document: str
    line: int
    language: str
    text: str

    def __str__(self):
        return f"{self.document}:{self.line}"


def read(document):
    return (ROOT / document).read_text(encoding="utf-8")


def blocks(language):
    """Every block of a language, in the order of the documents."""
    found = []
    for document in DOCUMENTS:
        text = read(document)
        for match in re.finditer(r"^```(\w+)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
            line = text.count("\n", 0, match.start()) + 1
            found.append(Block(document, line, match[1], match[2]))
    return [block for block in found if block.language == language]


def commands(block):
    """The commands of a bash block as lists of arguments, split by bash itself."""
    bash = shutil.which("bash")
    done = subprocess.run([bash, "-c", PRELUDE + block.text], capture_output=True, text=True, env={"PATH": ""})
    assert done.returncode == 0, f"{block}: {done.stderr}"
    records = done.stdout.split("\0\x1e\0")
    assert records.pop() == ""
    return [record.split("\0") for record in records]


def without_tables_from_results(text):
    """A document without what `docs/tables.py` writes."""
    return re.sub(r"^<!-- ssft:table \w+ -->$.*?^<!-- /ssft:table -->$", "", text, flags=re.MULTILINE | re.DOTALL)
