"""What peft's files of a LoRA say: the checks of its config, and what it means for one module, with peft's own rules.

peft is imported inside the functions: `ssft inspect` reads configs too, and importing peft takes seconds.
"""

import functools
import json
import math
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from ssft.errors import BundleError
from ssft.schema import read, shown

# Fields of peft's LoraConfig under which the layer's output is no longer W·x + scaling·B·A·x with the base's own W and
# the file's A and B. The others say where A and B sit (resolved by `lora_targets`), how they were trained (dropout,
# eva_config, ...) or where W is stored transposed (fan_in_fan_out; peft corrects it itself). A field that a newer peft
# added is ignored, as peft does.
NO_LOW_RANK_SUM = {
    "use_dora": "DoRA rescales every output by a trained magnitude",
    "lora_bias": "B has a trained bias",
    "modules_to_save": "whole modules of the base are replaced",
    "trainable_token_indices": "rows of the embedding are replaced",
    "target_parameters": "parameters are adapted that belong to no linear layer",
    "layer_replication": "layers of the base are repeated",
    "alora_invocation_tokens": "aLoRA acts only after an invocation sequence in the prompt",
    "use_bdlora": "A or B is stored as the blocks of a block-diagonal matrix",
    "use_qalora": "the input is pooled before A",
    "arrow_config": "Arrow routes every token among several adapters",
    "kasa_config": "KaSA truncates the base's weights and has a diagonal between A and B",
    "velora_config": "VeLoRA keeps buffers beside A and B",
    "monteclora_config": "MonteCLoRA keeps a sampler beside A and B",
    "megatron_config": "Megatron's parallel layers hold their parts of A and B elsewhere",
}

LORA_PREFIX = "base_model.model."
"""Of a module's name in peft's files."""

# Ways to start A and B that leave the base's weights as they are. The others (pissa, olora, corda, loftq, lora_ga)
# subtract the start from W when the adapter is made; some do so again whenever peft loads it.
HARMLESS_STARTS = (None, True, False, "gaussian", "eva", "orthogonal", "mica")

_MAX_PATTERNS, _MAX_PATTERNS_TEXT = 10_000, 200_000
"""Most expressions of one field, and characters of all together: compiling takes memory some hundred times its text."""

_MAX_NUMBER = 3.4e38
"""Beyond it float32, in which adapters compute, has infinity."""

_Rank = Annotated[int, Field(gt=0), "a positive integer"]
_Factor = Annotated[float, Field(ge=-_MAX_NUMBER, le=_MAX_NUMBER), "a finite number"]
_Names = Annotated[list[str] | str | None, "a list of strings or a string"]
_TYPES: dict[str, Any] = {
    "r": _Rank,
    "lora_alpha": _Factor,
    "use_rslora": Annotated[bool | None, "true or false"],
    "rank_pattern": dict[str, _Rank] | None,
    "alpha_pattern": dict[str, _Factor] | None,
    "target_modules": _Names,
    "exclude_modules": _Names,
    "layers_pattern": _Names,
    "layers_to_transform": Annotated[list[int] | int | None, "an integer or a list of them"],
}
"""The fields that say where a LoRA sits and by what its product is multiplied."""

_WITH_EXPRESSIONS = ("rank_pattern", "alpha_pattern", "target_modules", "exclude_modules", "layers_pattern")
"""The fields among them of which peft takes entries for regular expressions."""

_PATIENCE = 5.0
"""Seconds for all expressions of an adapter over all modules of a base; honest ones take some milliseconds."""

_PLAIN = re.compile(r"[\w.\\^$-]*", re.ASCII)
"""An expression without repetition and choice, whose matching takes no longer than its text is."""

_TRIAL = """
import json, re, sys
trial = json.load(sys.stdin)
for expression in map(re.compile, trial["expressions"]):
    for name in trial["names"]:
        expression.match(name), expression.fullmatch(name)
"""


def check_types(path: Path, lora: dict[str, Any]) -> None:
    """Raise `BundleError` unless `lora`, read from `path`, is a LoRA's, with values that one can compute with."""
    if lora.get("peft_type") != "LORA":
        raise BundleError(f"{path}: peft_type is {lora.get('peft_type')!r}; only LoRA adapters decode")
    _check_counts(path, lora, ("rank_pattern", "alpha_pattern", "layers_pattern"), _MAX_PATTERNS)
    for key, hint in _TYPES.items():
        try:
            read(hint, lora.get(key), key)
        except ValueError as error:
            raise BundleError(f"{path}: {error}") from error
    if (total := sum(len(pattern) for _, pattern in _patterns(lora))) > _MAX_PATTERNS_TEXT:
        raise BundleError(
            f"{path}: the expressions of {', '.join(_WITH_EXPRESSIONS)} have {total:,} characters together, no adapter "
            f"needs more than {_MAX_PATTERNS_TEXT:,}"
        )
    for key, pattern in _patterns(lora):
        try:
            re.compile(_in_peft(key, pattern))
        except (re.error, OverflowError, RecursionError) as error:
            raise BundleError(f"{path}: {key}={shown(pattern)} is no regular expression: {error}") from error


def check_patterns(path: Path, lora: dict[str, Any], names: Sequence[str]) -> None:
    """Raise `BundleError` if the expressions of `lora`, read from `path`, do not end soon over the modules `names`.

    Python's `re` has no limit of time and holds the interpreter while it runs, so one expression such as "(.+)+x" would
    stop every thread for good. Those with repetitions or choices are therefore tried in a process of their own first.
    """
    _check_counts(path, lora, _WITH_EXPRESSIONS, max(len(names), 100))
    risky = [(key, text) for key, text in _patterns(lora) if not _PLAIN.fullmatch(text)]
    try:
        if risky:
            _try(tuple(_in_peft(key, text) for key, text in risky), tuple(names))
    except subprocess.SubprocessError:
        first = ", ".join(f"{key}={shown(text)}" for key, text in risky[:3])
        raise BundleError(
            f"{path}: {first}: matching the base's {len(names)} modules found no end within {_PATIENCE:.0f} s; "
            "name the modules in a list, or write the expression without repetitions inside repetitions"
        ) from None


def no_low_rank_sum(lora: dict[str, Any]) -> tuple[str, str] | None:
    """The first field of the config `lora` under which peft computes something else than W·x + scaling·B·A·x, and why.

    The one rule for what decoding cannot hold: read adapters and settings of a training are judged by it alike.
    """
    # Not truth: an empty object switches on what is configured by one.
    found = {key: reason for key, reason in NO_LOW_RANK_SUM.items() if lora.get(key) not in (None, False, [])}
    if lora.get("bias", "none") != "none":
        found["bias"] = "biases of the base are replaced"
    if lora.get("init_lora_weights", True) not in HARMLESS_STARTS:
        found["init_lora_weights"] = "the adapter is trained over a base whose weights it changed"
    return next(iter(found.items()), None)


def check_low_rank(path: Path, lora: dict[str, Any]) -> None:
    """Raise `BundleError` if peft would compute anything but W·x + scaling·B·A·x from the config `lora` of `path`."""
    if (found := no_low_rank_sum(lora)) is None:
        return
    key, reason = found
    if key == "init_lora_weights":
        reason += ". peft's save_pretrained(path_initial_model_for_weight_conversion=...) writes it as a plain LoRA"
    what = f"{key}={shown(lora[key])}"
    raise BundleError(f"{path}: {what} cannot decode as a low-rank sum over a shared base: {reason}")


def lora_target(file: Path, key: str) -> tuple[str, str]:
    """`base_model.model.X.lora_A.weight` -> ("X", "lora_A"); `file` is where the key stands."""
    for kind in ("lora_A", "lora_B"):
        if key.startswith(LORA_PREFIX) and key.endswith(f".{kind}.weight"):
            return key[len(LORA_PREFIX) : -len(f".{kind}.weight")], kind
    raise BundleError(
        f"{file}: {key} is no weight of a LoRA that decodes here: expected lora_A and lora_B of linear layers only"
    )


def lora_rank(lora: dict[str, Any], module: str) -> int:
    """r of a module."""
    return _resolve(lora, "rank_pattern", "r", module)


def lora_scaling(lora: dict[str, Any], module: str) -> float:
    """What a module's B·A is multiplied by: alpha / r, or alpha / sqrt(r) with rank-stabilised LoRA."""
    rank = lora_rank(lora, module)
    return _resolve(lora, "alpha_pattern", "lora_alpha", module) / (math.sqrt(rank) if lora.get("use_rslora") else rank)


def lora_targets(path: Path, lora: dict[str, Any], model: Any) -> set[str]:
    """Names of the modules of `model` that peft would adapt."""
    from peft import LoraConfig
    from peft.tuners.lora import LoraModel
    from peft.tuners.tuners_utils import _maybe_include_all_linear_layers, check_target_module_exists

    keys = ("target_modules", "exclude_modules", "layers_to_transform", "layers_pattern")
    fields = {key: lora[key] for key in keys if lora.get(key) is not None}
    fields.setdefault("target_modules", LoraModel.target_module_mapping.get(model.config.model_type, []))
    try:
        config = _maybe_include_all_linear_layers(LoraConfig(**fields), model)
    except ValueError as error:
        raise BundleError(f"{path}: {error}") from error
    return {name for name, _ in model.named_modules() if name and check_target_module_exists(config, name)}


def _resolve(lora: dict[str, Any], patterns_key: str, default_key: str, module: str) -> Any:
    from peft.utils.other import get_pattern_key

    patterns = lora.get(patterns_key) or {}
    return patterns.get(get_pattern_key(list(patterns), module), lora[default_key])


def _patterns(lora: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """(field, expression) for everything in a checked config that peft takes for a regular expression."""
    for key in _WITH_EXPRESSIONS:
        value = lora.get(key) or []
        if isinstance(value, str):
            yield key, value
        elif key.endswith("pattern"):  # the entries of other lists are names
            yield from ((key, pattern) for pattern in value)


def _in_peft(key: str, pattern: str) -> str:
    """The expression that peft makes of a pattern."""
    if key in ("rank_pattern", "alpha_pattern"):
        return rf"(.*\.)?({pattern})$"
    return rf"(?:^|.*?\.){pattern}\.(?P<idx>\d+)\." if key == "layers_pattern" else pattern


@functools.lru_cache(maxsize=8)
def _try(expressions: tuple[str, ...], names: tuple[str, ...]) -> None:
    """Raise `SubprocessError` unless a process of its own is through with all expressions and names in time.

    Only what ended is remembered: a machine that is busy for once must not refuse an honest adapter for good.
    """
    trial = json.dumps({"expressions": expressions, "names": names}).encode()
    # -I -S: neither the user's environment nor site-packages; nothing but the standard library runs.
    command = [sys.executable, "-I", "-S", "-c", _TRIAL]
    subprocess.run(command, input=trial, timeout=_PATIENCE, capture_output=True, check=True)


def _check_counts(path: Path, lora: dict[str, Any], keys: Sequence[str], limit: int) -> None:
    for key in keys:
        if isinstance(value := lora.get(key), (dict, list)) and len(value) > limit:
            raise BundleError(
                f"{path}: {key} has {len(value):,} entries, but no adapter needs more than {limit:,} here"
            )
