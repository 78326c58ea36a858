"""What a command measured, as dataclasses whose fields are the keys of its JSON.

BenchResult, TaskResult, VerifyResult and EvalResult are also what an adapter's `results.json` keeps. A file may come
from a stranger, so what is counted or printed from it is bounded.

VerifyResult           `ssft verify`: are the texts the same?
EvalResult             `ssft eval`: how good are they?
SuiteResult            `ssft bench tasks`: one run over several adapters
  TaskResult           one adapter on its prompts
    BenchResult        `ssft bench ADAPTER`: its methods, side by side
      MethodResult     one method
    QualityResult      the adapter's answers and its plain-LoRA twin's, scored
AdaptersResult         `ssft bench adapters`: many adapters over one base
StepResult             `ssft bench train`: a training step with streams beside a plain one
Profile                `ssft bench profile`: one way of decoding, by the parts of a pass
"""

from dataclasses import dataclass, field
from typing import Annotated, Any

from pydantic import Field, FiniteFloat

FORMAT = 2
"""Version of the JSON that `--compare` and `ssft card` read."""

Text = Annotated[str, Field(max_length=4_000), "a text of at most 4,000 characters"]
Count = Annotated[int, Field(ge=0, lt=2**63), "a count"]
Number = Annotated[FiniteFloat, "a finite number"]
Interval = tuple[Number, Number]


@dataclass(kw_only=True)
class Measured:
    """Whose measurement it is, on what, and how it was made.

    adapter_sha256: the bundle's `weights_sha256`, so that a result can be told from another adapter's of the same name.
    data: `name` and `sha256` of the file that the prompts come from; None: the adapter's own validation rows. command:
    the line that made it, which names files without their folders. tree: fields of the `TreeConfig`.
    """

    adapter: Text | None
    adapter_sha256: Text | None = ""
    device: Text
    precision: Text
    rows: Count
    batch_size: Count
    max_new_tokens: Count
    tree: dict[str, Any]
    data: dict[str, Text] | None = None
    command: Text = ""
    format: int = FORMAT


@dataclass
class Difference:
    """First place where two outputs for one prompt part.

    row: 0-based prompt. position: 0-based place in the output. expected, got: the tokens there; None where an output
    has ended already. margin: the reference's lead of its best over its second-best logit at that place; near 0 it is
    a tie that rounding decides. None where the reference has ended, or where nobody asked.
    """

    row: int
    position: int
    expected: int | None
    got: int | None
    margin: float | None = None


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
    identical: int | None = None
    """None in a file of an earlier version, which does not tell."""


@dataclass
class MethodResult:
    """What one method did. Tokens, calls and accepted are one round's; seconds are medians over the rounds.

    kind, lossless: the method module's. seconds: all prompts of a round, of which prompt_seconds until each prompt's
    first pass, which gave prompt_tokens of the tokens (several where a method drafts before it); decode_seconds is the
    rest. tokens_per_call: tokens, the target's own included, per call of the target. passes: two rows in one pass are
    two calls and one pass.

    speedup: median over the rounds of the paired ratio of seconds per token, baseline / method (where texts are the
    same, that is the ratio of seconds; a text that differs and is shorter is no speed); speedup_interval: its bootstrap
    95 % interval over rounds and batches of prompts, None where there is one of either. decode_speedup: the same median
    without the first passes, their seconds and their tokens. None of them exists for a yardstick (None).

    identical: prompts whose ids equal plain's in every round; differences: the first of each prompt that is not.
    accepted: [depth] passes that accepted so deep, for methods that draft.

    extra_parameters, extra_bytes: beside base and LoRA, in memory and on disk. peak_bytes: most memory of a GPU that
    tensors took during one batch, above what was there before it; None elsewhere. training: what was trained for the
    method (`DecodingMethod.training`).
    """

    kind: Text
    lossless: bool
    tokens: Count
    calls: Count
    passes: int
    tokens_per_call: float
    seconds: float
    prompt_seconds: float
    prompt_tokens: int
    decode_seconds: float
    seconds_per_round: list[float]
    tokens_per_second: float
    speedup: Number | None
    speedup_interval: Interval | None
    decode_speedup: float | None
    identical: Count | None
    extra_parameters: int
    extra_bytes: int
    peak_bytes: int | None = None
    accepted: list[int] = field(default_factory=list)
    differences: list[Difference] = field(default_factory=list)
    categories: dict[str, CategoryResult] = field(default_factory=dict)
    training: dict[str, Any] = field(default_factory=dict)


@dataclass(kw_only=True)
class BenchResult(Measured):
    """A comparison with all that it depends on; its fields are the keys of `ssft bench --json`.

    baseline: the method that speed-ups are measured against: of kind "plain" and the fastest of those that ran.
    left_out: method -> why it did not run. outputs: plain's token ids, [rows][tokens], so that two results can be
    compared text by text; empty in an adapter's `results.json`. prompts_sha256: of the prompts' token ids.
    temperature: at which tokens were drawn; None where the likeliest was taken. form: what all texts had to look like,
    as the setting's name and the SHA-256 of its text; None for any text.
    """

    adapter: Text
    threads: int
    rounds: Count
    interrupted: bool
    seed: int
    versions: dict[str, str]
    methods: dict[Text, MethodResult]
    baseline: Text = "plain"
    left_out: dict[str, str] = field(default_factory=dict)
    outputs: list[list[int]] = field(default_factory=list)
    prompts_sha256: str = ""
    temperature: Number | None = None
    form: Text | None = None


@dataclass
class QualityResult:
    """Answers of the adapter and of its twin (the same training without streams) on the same rows, in percent.

    adapter, twin: metric -> mean; adapter_intervals, twin_intervals: their bootstrap 95 % intervals. differences:
    metric -> adapter minus twin, with difference_intervals over the rows, paired. The twin's fields are empty where
    there is none. twin_unlike: in what, beside the streams, the twin's training was another. twin_command: what made
    the twin's scores, where it is not the command that made the adapter's.
    """

    rows: Count
    metric: Text
    adapter: dict[Text, Number]
    adapter_intervals: dict[Text, Interval]
    twin: dict[Text, Number] = field(default_factory=dict)
    twin_intervals: dict[Text, Interval] = field(default_factory=dict)
    differences: dict[Text, Number] = field(default_factory=dict)
    difference_intervals: dict[Text, Interval] = field(default_factory=dict)
    twin_unlike: list[Text] = field(default_factory=list)
    twin_command: Text = ""


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


# --- ssft verify, eval ---


@dataclass(kw_only=True)
class Answered(Measured):
    """What one way of decoding answered. method, trained_on: how the adapter was trained, as far as its folder tells
    (`runs.twin.training_of`)."""

    kind: Text
    tokens: Count
    calls: Count
    method: Text = ""
    trained_on: dict[str, Any] = field(default_factory=dict)


@dataclass(kw_only=True)
class VerifyResult(Answered):
    """Decoding with streams: `identical` of the rows have the text of the method `against`; differences: the first of
    each that has not; operation: the first that gives a row other bits beside other rows, where there is a difference
    and one is found."""

    against: Text
    identical: Count
    differences: list[Difference] = field(default_factory=list)
    operation: Text | None = None


@dataclass(kw_only=True)
class EvalResult(Answered):
    """Answers scored in percent; `streaming`: whether they were decoded with streams.

    metric: the module that scored. metrics, intervals: metric -> mean over the rows, and its bootstrap 95 % interval.
    scores: metric -> [rows]. cut_off: answers that ended at `max_new_tokens`. quality: the metrics beside those of the
    twin, once `ssft card --twin` has put them there. text_sha256: `Bundle.text_sha256`, with which the scores hold for
    other streams over the same LoRA; empty for the bare base.
    """

    text_sha256: Text = ""
    metric: Text = ""
    metrics: dict[Text, Number]
    intervals: dict[Text, Interval]
    scores: dict[Text, list[Number]] = field(default_factory=dict)
    tokens_per_call: Number | None = None
    cut_off: Count | None = None
    streaming: bool
    quality: QualityResult | None = None


# --- ssft bench adapters, train, profile ---


@dataclass
class Comparison:
    """Two ways of running the same `rows` rows, by name in `tokens_per_second`, medians over the rounds.

    tokens_per_call: of the second. ratio: speed of the second over that of the first, median of the paired rounds; 1 is
    no cost, 0.9 a tenth of the speed. interval: its bootstrap 95 % interval over the rounds, None for a single round.
    identical: rows with the same tokens both ways in every round; None where rows stand in another order.
    """

    title: str
    rows: int
    tokens_per_second: dict[str, float]
    tokens_per_call: float
    ratio: float
    interval: tuple[float, float] | None
    identical: int | None


@dataclass
class ShelfPoint:
    """While `loaded` adapters are loaded: milliseconds of a `load_adapter` (median of the last five), microseconds of
    a `set_adapter` to another resident adapter, and, after a garbage collection, resident memory of the process,
    torch's on a GPU, and how many tensors there are. None where there is nothing to measure."""

    loaded: int
    load_ms: float | None
    switch_us: float | None
    process_bytes: int | None
    allocated_bytes: int | None
    tensors: int


@dataclass
class AdaptersResult:
    """All measurements with what they depend on; its fields are the keys of `ssft bench adapters --json`.

    base_bytes: of the base's weights. adapters: of each its `path`, `r`, `streams`, `tree`, number of `prompts`,
    `bytes` on the device and `file_bytes` of its safetensors files. shelf: points with no adapter, with two, with many,
    and after all were deleted. comparisons: copies of the first adapter mixed in one batch; batches of all tasks mixed
    against batches of one task each, which also pays for prompts and answers of unequal length; streaming against plain
    decoding with the first adapter in batches of several sizes. differences: by adapter, its prompts among the
    `mixed_rows` rows of the mixed batches whose text is not what they give alone, decoded without speculation.
    """

    base: str
    base_bytes: int
    device: str
    precision: str
    threads: int
    adapters: dict[str, dict[str, Any]]
    max_new_tokens: int
    rounds: int
    seed: int
    versions: dict[str, str]
    shelf: list[ShelfPoint] = field(default_factory=list)
    comparisons: list[Comparison] = field(default_factory=list)
    mixed_rows: int = 0
    differences: dict[str, list[Difference]] = field(default_factory=dict)
    interrupted: bool = False


@dataclass
class StepResult:
    """Cost of a stream training step.

    seconds: per step, median over rounds and batches. ratio: median over the rounds of streaming seconds / plain
    seconds; ratio_interval: its bootstrap 95 % interval, None with one round or one batch. tokens: mean tokens of a
    batch, completion_tokens those that the loss counts. peak_bytes: of tensors during a step of the largest batch,
    above those before it. In lossless mode `uncut` stands beside `plain` and `streaming`: the step with streams
    and with gradients through all layers.
    """

    recipe: str
    device: str
    precision: str
    threads: int
    num_streams: int
    num_msa_layers: int
    batch_size: int
    batches: int
    rounds: int
    tokens: float
    completion_tokens: float
    seconds: dict[str, float]
    ratio: float
    ratio_interval: tuple[float, float] | None
    peak_bytes: dict[str, int | None]
    versions: dict[str, str]


@dataclass
class Part:
    """One part of a pass: milliseconds per pass, and its share of the pass."""

    ms: float
    share: float


@dataclass
class Profile:
    """One way of decoding: passes after the prompts', tokens per row and pass, ms per pass, and its parts."""

    passes: int
    tokens: int
    ms_per_pass: float
    ms_per_token: float
    prompt_ms: float
    parts: dict[str, Part]
