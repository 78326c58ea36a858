"""Result files as `ssft verify`, `bench`, `bench tasks` and `eval` write them, by hand, for a given bundle."""

import dataclasses
import json

TREE = {"kind": "best_first", "max_nodes": 7, "top_k": 4}
DEVICE = "cpu: Intel Xeon, 2 threads"


def save(path, value):
    value = dataclasses.asdict(value) if dataclasses.is_dataclass(value) else value
    path.write_text(json.dumps(value))
    return path


def verify_facts(bundle, **changes):
    facts = {
        "kind": "verify",
        "command": "ssft verify adapter --limit 100 --dtype float32",
        "adapter": "adapter",
        "adapter_sha256": bundle.weights_sha256,
        "data": None,
        "device": DEVICE,
        "precision": "float32",
        "tree": TREE,
        "rows": 100,
        "identical": 99,
        "differences": [],
        "against": "plain",
        "tokens": 3000,
        "calls": 800,
        "batch_size": 4,
        "max_new_tokens": 128,
    }
    return {**facts, **changes}


def eval_facts(bundle, **changes):
    checked = ("identical", "differences", "against")
    facts = {
        **{key: value for key, value in verify_facts(bundle).items() if key not in checked},
        "kind": "eval",
        "command": "ssft eval adapter --data test.jsonl",
        "data": {"name": "test.jsonl", "sha256": "ab" * 32},
        "rows": 40,
        "metric": "exact",
        "metrics": {"exact_match": 62.5},
        "intervals": {"exact_match": [47.5, 77.5]},
        "streaming": True,
        "tokens": 1300,
        "calls": 500,
    }
    return {**facts, **changes}
