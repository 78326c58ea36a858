"""Results of comparisons made by hand: three tasks, seven methods, one lost, one that differs, one yardstick."""

import copy
from typing import Any

from ssft.results.schema import (
    BenchResult,
    CategoryResult,
    Difference,
    MethodResult,
    QualityResult,
    SuiteResult,
    TaskResult,
)

ROWS = 10
TOKENS = 330
VERSIONS = {"ssft": "0.1.0", "torch": "2.13.0", "transformers": "5.23.0", "peft": "0.21.2"}
DEVICE = "cpu: Intel Xeon, 2 threads"
LEFT_OUT = {"generate_static": "the static cache does not run with routed LoRA; use --merge"}

# Tokens of the first passes of methods that verify a draft there; all others have one per prompt.
FIRST = {"prompt_lookup": 24, "assisted": 31}
TRAINING = {
    "assisted": {"data": "rows.jsonl.gz", "rows": 2000, "steps": 250, "seconds": 1530.4, "device": "cpu: Intel Xeon"},
    "medusa": {"data": "rows.jsonl.gz", "rows": 1200, "steps": 150},
}

# Name -> kind, passes, seconds of decoding, half of the speed-up's interval, parameters, bytes, accepted.
Row = tuple[str, int, float, float, int, int, list[int]]
SQL: dict[str, Row] = {
    "plain": ("plain", 330, 15.2, 0, 0, 0, []),
    "generate": ("plain", 330, 15.9, 0.06, 0, 0, []),
    "prompt_lookup": ("speculative", 205, 11.8, 0.12, 0, 0, []),
    "assisted": ("speculative", 128, 13.1, 0.10, 71_000_000, 284_000_000, []),
    "medusa": ("speculative", 122, 9.6, 0.16, 115_000_000, 460_000_000, [30, 26, 18, 14, 24]),
    "streaming": ("speculative", 94, 7.1, 0.21, 2_304, 9_424, [13, 11, 14, 13, 33]),
}
DIALOGSUM: dict[str, Row] = {
    "plain": ("plain", 330, 16.0, 0.05, 0, 0, []),
    "generate": ("plain", 330, 15.6, 0, 0, 0, []),
    "prompt_lookup": ("speculative", 158, 8.3, 0.17, 0, 0, []),
    "assisted": ("speculative", 160, 16.9, 0.11, 71_000_000, 284_000_000, []),
    "medusa": ("speculative", 190, 12.6, 0.10, 115_000_000, 460_000_000, [90, 50, 25, 10, 5]),
    "streaming": ("speculative", 170, 11.2, 0.14, 2_304, 9_424, [72, 46, 24, 12, 6]),
}
E2E: dict[str, Row] = {
    "plain": ("plain", 330, 15.4, 0, 0, 0, []),
    "generate": ("plain", 330, 16.4, 0.05, 0, 0, []),
    "prompt_lookup": ("speculative", 300, 15.9, 0.13, 0, 0, []),
    "streaming": ("speculative", 141, 13.9, 0.16, 2_304, 9_424, [41, 38, 27, 15, 10]),
}


def sample_bench(name: str = "sql", methods: dict[str, Row] = SQL, **changes: Any) -> BenchResult:
    """`ROWS` prompts; the baseline is the fastest plain method of the table. `changes`: other fields' values."""
    prompt = 2.0 if name == "sql" else 5.5
    plain = {method: row[2] + prompt for method, row in methods.items() if row[0] == "plain"}
    baseline = min(plain, key=lambda method: plain[method])
    results = {name: _method(name, row, prompt, plain[baseline], methods[baseline][2]) for name, row in methods.items()}
    result = BenchResult(
        adapter=name,
        device=DEVICE,
        precision="float32",
        threads=2,
        rows=ROWS,
        batch_size=1,
        max_new_tokens=96,
        rounds=3,
        interrupted=False,
        seed=0,
        tree={"kind": "best_first", "max_nodes": 16, "top_k": 4, "max_depth": 0, "max_stream_nodes": 2},
        versions=dict(VERSIONS),
        methods=results,
        baseline=baseline,
        left_out=dict(LEFT_OUT),
        outputs=[[row * 100 + place for place in range(TOKENS // ROWS)] for row in range(ROWS)],
    )
    for key, value in changes.items():
        setattr(result, key, value)
    return result


def _method(name: str, row: Row, prompt: float, baseline: float, baseline_decode: float) -> MethodResult:
    kind, calls, decode, half, parameters, size, accepted = row
    seconds = decode + prompt
    speedup = baseline / seconds
    first = FIRST.get(name, ROWS)
    return MethodResult(
        kind=kind,
        lossless=True,
        tokens=TOKENS,
        calls=calls,
        passes=calls,
        tokens_per_call=TOKENS / calls,
        seconds=seconds,
        prompt_seconds=prompt,
        prompt_tokens=first,
        decode_seconds=decode,
        seconds_per_round=[seconds - 0.1, seconds, seconds + 0.2],
        tokens_per_second=TOKENS / seconds,
        speedup=speedup,
        speedup_interval=(speedup - half, speedup + half),
        decode_speedup=(baseline_decode / (TOKENS - ROWS)) / (decode / (TOKENS - first)),
        identical=ROWS,
        extra_parameters=parameters,
        extra_bytes=size,
        peak_bytes=int(4e7 + 0.1 * size),
        accepted=list(accepted),
        training=dict(TRAINING.get(name, {})),
    )


def sample_yardstick() -> MethodResult:
    """Another program, whose text is its own: no speed-up, no identity."""
    method = copy.deepcopy(sample_bench().methods["plain"])
    method.kind, method.lossless, method.tokens_per_second = "yardstick", False, 41.0
    method.speedup = method.speedup_interval = None
    method.decode_speedup = method.identical = method.peak_bytes = None
    return method


def sample_suite() -> SuiteResult:
    """SQL won by streaming, beside a yardstick; summaries won by a peer; E2E without a clear winner, one text off."""
    sql, dialogsum, e2e = sample_bench(), sample_bench("dialogsum", DIALOGSUM), sample_bench("e2e_nlg", E2E)
    sql.methods["llama_cpp"] = sample_yardstick()
    different = e2e.methods["prompt_lookup"]
    different.identical, different.differences = ROWS - 1, [Difference(4, 17, 417, 23, 0.031)]
    e2e.left_out |= {"medusa": "no heads under outputs/peers/e2e_nlg/medusa; train them with `ssft train ...`"}
    for name, method in dialogsum.methods.items():
        method.categories = {
            category: CategoryResult(
                5, 165, method.calls // 2, method.tokens_per_call, method.seconds / 2, best, value, span
            )
            for category, best, value, span in _categories(name, method.speedup or 0)
        }
    return SuiteResult(
        tasks={
            "sql": TaskResult(sql, sample_quality("exact", exact=71.5, normalised=78.0)),
            "dialogsum": TaskResult(dialogsum, sample_quality("rouge", rouge1=38.2, rouge2=12.9, rougeLsum=33.0)),
            "e2e_nlg": TaskResult(e2e, QualityResult(40, "rouge", {"rouge1": 66.0}, {"rouge1": (63.5, 68.4)})),
        },
        device=DEVICE,
        precision="float32",
        threads=2,
        versions=dict(VERSIONS),
        interrupted=False,
        created="2026-01-05T14:30:00+00:00",
        command="ssft bench tasks --peers peers --output report",
    )


def _categories(name: str, speedup: float) -> list[tuple[str, str, float, tuple[float, float]]]:
    """In the office plain is faster than generate, which is the baseline of the whole."""
    return [
        ("daily life", "generate", 1.0, (1.0, 1.0))
        if name == "generate"
        else ("daily life", "generate", speedup * 1.1, (speedup * 0.95, speedup * 1.3)),
        ("office", "plain", 1.0, (1.0, 1.0))
        if name == "plain"
        else ("office", "plain", speedup * 0.9, (speedup * 0.8, speedup * 1.05)),
    ]


def sample_quality(metric: str, **means: float) -> QualityResult:
    """A twin that is half a point better on every metric, within the noise."""
    return QualityResult(
        rows=40,
        metric=metric,
        adapter=dict(means),
        adapter_intervals={name: (value - 5, value + 5) for name, value in means.items()},
        twin={name: value + 0.5 for name, value in means.items()},
        twin_intervals={name: (value - 4.5, value + 5.5) for name, value in means.items()},
        differences=dict.fromkeys(means, -0.5),
        difference_intervals=dict.fromkeys(means, (-2.5, 1.5)),
    )
