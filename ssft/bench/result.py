"""What a comparison found, as dataclasses whose fields are the keys of its JSON.

SuiteResult            `ssft bench tasks`: one run over several adapters
  TaskResult           one adapter on its prompts
    BenchResult        `ssft bench ADAPTER`: its methods, side by side
      MethodResult     one method
    QualityResult      the adapter's answers and its plain-LoRA twin's, scored
"""

from dataclasses import dataclass, field
from typing import Any

from ssft.bench.compare import Difference

FORMAT = 1
"""Version of the JSON that `--compare` reads."""


@dataclass
class CategoryResult:
    """One method on the prompts of one category; the fields mean what they mean in `MethodResult`, but the baseline is
    the fastest plain method on these prompts, which need not be that of all."""

    rows: int
    tokens: int
    calls: int
    tokens_per_call: float
    seconds: float
    baseline: str
    speedup: float
    speedup_interval: tuple[float, float] | None


@dataclass
class MethodResult:
    """What one method did. Tokens, calls and accepted are one round's; seconds are medians over the rounds.

    kind, lossless: the method module's. seconds: all prompts of a round, of which prompt_seconds until each prompt's
    first pass, which gave prompt_tokens of the tokens (several where a method drafts before it); decode_seconds is the
    rest. tokens_per_call: tokens, the target's own included, per call of the target. passes: two rows in one pass are
    two calls and one pass.

    speedup: median over the rounds of the paired ratio of seconds per token, baseline / method (where texts are the
    same, that is the ratio of seconds; a text that differs and is shorter is no speed); speedup_interval: its bootstrap
    95 % interval over rounds and batches of prompts, None where there is one of either; speedup_mean, speedup_spread:
    mean and standard deviation of the rounds' ratios. decode_speedup: the same median without the first passes, their
    seconds and their tokens. None of them exists for a yardstick (None).

    identical: prompts whose ids equal plain's in every round (a missing output counts as different); differences: the
    first of each prompt that is not. accepted: [depth] passes that accepted so deep, for methods that draft a tree.

    extra_parameters, extra_bytes: beside base and LoRA, in memory and on disk. peak_bytes: most memory that tensors
    took during one batch, above what was there before it; None where the device does not tell. training: what was
    trained for the method (`DecodingMethod.training`).
    """

    kind: str
    lossless: bool
    tokens: int
    calls: int
    passes: int
    tokens_per_call: float
    seconds: float
    prompt_seconds: float
    prompt_tokens: int
    decode_seconds: float
    seconds_per_round: list[float]
    tokens_per_second: float
    speedup: float | None
    speedup_interval: tuple[float, float] | None
    speedup_mean: float | None
    speedup_spread: float | None
    decode_speedup: float | None
    identical: int | None
    extra_parameters: int
    extra_bytes: int
    peak_bytes: int | None = None
    accepted: list[int] = field(default_factory=list)
    differences: list[Difference] = field(default_factory=list)
    categories: dict[str, CategoryResult] = field(default_factory=dict)
    training: dict[str, Any] = field(default_factory=dict)


@dataclass
class BenchResult:
    """A comparison with all that it depends on; its fields are the keys of `ssft bench --json`.

    baseline: the method that speed-ups are measured against: of kind "plain" and the fastest of those that ran.
    left_out: method -> why it did not run. outputs: plain's token ids, [rows][tokens], so that two results can be
    compared text by text. adapter_sha256: the bundle's `weights_sha256`, so that a result can be told from another
    adapter's of the same name. prompts_sha256: of the prompts' token ids. data: `name` and `sha256` of the file that
    the prompts come from; None: the adapter's own validation rows. command: what made it.
    """

    adapter: str
    device: str
    precision: str
    threads: int
    rows: int
    batch_size: int
    max_new_tokens: int
    rounds: int
    interrupted: bool
    seed: int
    tree: dict[str, Any]
    versions: dict[str, str]
    methods: dict[str, MethodResult]
    baseline: str = "plain"
    left_out: dict[str, str] = field(default_factory=dict)
    outputs: list[list[int]] = field(default_factory=list)
    adapter_sha256: str = ""
    prompts_sha256: str = ""
    data: dict[str, str] | None = None
    command: str = ""
    format: int = FORMAT


@dataclass
class QualityResult:
    """Answers of the adapter and of its twin (the same training without streams) on the same rows, in percent.

    adapter, twin: metric -> mean; adapter_intervals, twin_intervals: their bootstrap 95 % intervals. differences:
    metric -> adapter minus twin, with difference_intervals over the rows, paired. The twin's fields are empty where
    there is none. twin_unlike: in what, beside the streams, the twin's training was another.
    """

    rows: int
    metric: str
    adapter: dict[str, float]
    adapter_intervals: dict[str, tuple[float, float]]
    twin: dict[str, float] = field(default_factory=dict)
    twin_intervals: dict[str, tuple[float, float]] = field(default_factory=dict)
    differences: dict[str, float] = field(default_factory=dict)
    difference_intervals: dict[str, tuple[float, float]] = field(default_factory=dict)
    twin_unlike: list[str] = field(default_factory=list)


@dataclass
class TaskResult:
    """One adapter: its methods side by side, and how good its answers are (None where rows have no references)."""

    bench: BenchResult
    quality: QualityResult | None = None


@dataclass
class SuiteResult:
    """One run over several adapters, by name; also what is there after an interruption.

    command: the arguments that made it, without paths' folders. created: UTC, ISO 8601.
    """

    tasks: dict[str, TaskResult]
    device: str
    precision: str
    threads: int
    versions: dict[str, str]
    interrupted: bool
    created: str
    command: str
    format: int = FORMAT
