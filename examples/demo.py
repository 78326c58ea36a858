"""`make demo`: train an adapter with streams on the CPU, measure it against plain decoding, show three completions.

Every step is a command that you can type yourself; the demo prints it before it runs it. The rows are made by ssft
(order records to JSON and a confirmation), so nothing but the base model is downloaded.
"""

import json
import shlex
import subprocess
import sys
import time
from pathlib import Path

from ssft.recipes.quickstart import quickstart_rows

FOLDER = Path("outputs")
ADAPTER = FOLDER / "quickstart"
HELD_BACK = FOLDER / "quickstart_validation.jsonl"
COMPLETIONS = FOLDER / "quickstart_completions.jsonl"


def ssft(*arguments: str) -> None:
    """Run one `ssft` command, shown before it runs; a failure ends the demo."""
    print(f"\n$ ssft {shlex.join(arguments)}", flush=True)
    done = subprocess.run([sys.executable, "-m", "ssft", *arguments], check=False)
    if done.returncode:
        sys.exit(done.returncode)


def main() -> None:
    begin = time.monotonic()
    FOLDER.mkdir(exist_ok=True)
    # Customers that the training never saw.
    rows = quickstart_rows(5, seed=7, part="validation")
    HELD_BACK.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    ssft("bases", "fetch", "smollm2-135m")
    ssft("train", "quickstart", "--output", str(ADAPTER), "--resume", "--force")
    # In float32, where the text is plain's on every machine; in bfloat16 a tie may fall either way.
    measured = (str(ADAPTER), "--data", str(HELD_BACK), "--dtype", "float32")
    ssft("bench", *measured, "--rounds", "2", "--max-new-tokens", "96")
    ssft("verify", *measured, "--max-new-tokens", "96")
    ssft("generate", *measured, "--limit", "3", "--output", str(COMPLETIONS))
    for line in COMPLETIONS.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        print(f"\n{row['prompt']}{row['completion']}\n({row['tokens']} tokens in {row['calls']} passes)")
    print(f"\ndemo: {time.monotonic() - begin:.0f} s; the adapter is in {ADAPTER}")


if __name__ == "__main__":
    main()
