"""What the values of peft's and TRL's settings must be, where their annotations say only `int`, `float` or `str`.

A wrong value would otherwise be told by a library in the middle of a run, or by nobody.
"""

from functools import cache
from types import NoneType
from typing import Annotated, Any, Literal, get_args

from pydantic import Field

from ssft.schema import ABOVE_ZERO, BELOW_ONE, NOT_NEGATIVE, POSITIVE

SEED = Annotated[int, Field(ge=0, lt=2**32), "a whole number from 0 to 4294967295"]

WORKERS = Annotated[int, Field(ge=0, le=1024), "a whole number from 0 to 1024"]
RANK = Annotated[int, Field(ge=1, le=2**16), "a whole number from 1 to 65536"]
OBJECT = dict[str, Any] | None  # a text of JSON is for the command line of other programs

LIMITS: dict[str, dict[str, Any]] = {
    "lora": {"r": RANK, "lora_alpha": POSITIVE, "lora_dropout": BELOW_ONE},
    "training": {
        "activation_checkpointing_kwargs": OBJECT,
        "adam_beta1": BELOW_ONE,
        "adam_beta2": BELOW_ONE,
        "adam_epsilon": NOT_NEGATIVE,
        "data_seed": SEED | None,
        "dataloader_num_workers": WORKERS,
        "dataloader_prefetch_factor": POSITIVE | None,
        "dataset_kwargs": OBJECT,
        "dataset_num_proc": WORKERS | None,
        "ddp_bucket_cap_mb": POSITIVE | None,
        "ddp_timeout": POSITIVE,
        "eval_accumulation_steps": POSITIVE | None,
        "eval_delay": NOT_NEGATIVE,
        "eval_steps": ABOVE_ZERO | None,
        "gradient_accumulation_steps": POSITIVE,
        "label_smoothing_factor": BELOW_ONE,
        "include_num_input_tokens_seen": Literal["all", "non_padding", "no"] | bool,
        "learning_rate": NOT_NEGATIVE,
        "logging_steps": ABOVE_ZERO,
        "lr_scheduler_kwargs": OBJECT,
        "max_grad_norm": NOT_NEGATIVE,
        "max_length": POSITIVE | None,
        "max_steps": Annotated[Literal[-1] | POSITIVE, "a whole number from 1, or -1 for num_train_epochs"],
        "neftune_noise_alpha": ABOVE_ZERO | None,
        "num_train_epochs": ABOVE_ZERO,
        "pad_to_multiple_of": Literal["auto"] | POSITIVE | None,
        "per_device_eval_batch_size": POSITIVE,
        "per_device_train_batch_size": POSITIVE,
        "save_steps": ABOVE_ZERO,
        "save_total_limit": POSITIVE | None,
        "seed": SEED,
        "torch_empty_cache_steps": POSITIVE | None,
        "warmup_steps": NOT_NEGATIVE,
        "weight_decay": NOT_NEGATIVE,
    },
}


def narrowed(section: str, name: str, hint: Any, choices: Any = None) -> Any:
    """The annotation that a key's values are checked against; `hint` is the library's own, `choices` the strings that
    it lists beside it, if any."""
    if choices:
        listed: Any = Literal[tuple(choices)]
        return listed | None if NoneType in get_args(hint) else listed
    if (section, name) == ("training", "report_to"):
        reporter: Any = Literal[("none", "all") + tuple(reporters())]  # noqa: RUF005  (Python 3.10 knows no star here)
        return Annotated[reporter | list[reporter], f"none, all or names of {', '.join(reporters())}"]
    return LIMITS.get(section, {}).get(name, hint)


@cache
def reporters() -> dict[str, Any]:
    """What a run can report to -> transformers' callback for it, which raises where its package is not installed."""
    from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK

    return INTEGRATION_TO_CALLBACK
