"""The one exception family that a user is meant to read.

Every message says what was given, why it cannot work, and which knob to turn. The command line
prints it without a traceback and exits 2; Python users can catch `SSFTError` for all of them.
"""

import difflib
import re
from collections.abc import Iterable


class SSFTError(Exception):
    """Base of all errors that ssft raises on purpose."""


class ConfigError(SSFTError, ValueError):
    """A setting is out of range, unknown or contradicts another one."""


class DataError(SSFTError, ValueError):
    """A data file is missing, empty, malformed or does not fit the model."""


class BaseModelError(SSFTError, RuntimeError):
    """The base model cannot be fetched, verified or loaded."""


class UnsupportedArchitectureError(SSFTError, NotImplementedError):
    """Streams cannot enter the model, which is no decoder of ordinary layers or failed its self-check."""


class BundleError(SSFTError, RuntimeError):
    """An adapter folder is damaged, incomplete, of a wrong version or made for another base."""


class HubError(SSFTError, RuntimeError):
    """A repository of the hub cannot be found, read or written: name, token, network, HF_ENDPOINT or revision."""


class GenerationError(SSFTError, ValueError):
    """A prompt or a decoding setting cannot be served."""


SYNONYMS = {
    # keys of recipes and of draft trees
    "accumulation": ("gradient_accumulation_steps",),
    "accumulation_steps": ("gradient_accumulation_steps",),
    "alpha": ("lora_alpha",),
    "batch": ("per_device_train_batch_size", "batch_size"),
    "batch_size": ("per_device_train_batch_size",),
    "checkpointing": ("activation_checkpointing",),
    "context": ("max_length",),
    "dataset": ("data", "train"),
    "depth": ("max_depth",),
    "dropout": ("lora_dropout",),
    "epoch": ("num_train_epochs",),
    "epochs": ("num_train_epochs",),
    "eta": ("projection_rank",),
    "eval_batch_size": ("per_device_eval_batch_size",),
    "gamma": ("num_streams",),
    "grad_accum": ("gradient_accumulation_steps",),
    "gradient_accumulation": ("gradient_accumulation_steps",),
    "heads": ("num_heads",),
    "k": ("top_k",),
    "layers": ("num_msa_layers", "num_layers"),
    "load_in_4bit": ("quantization",),
    "lora_r": ("r",),
    "lora_rank": ("r",),
    "lr": ("learning_rate",),
    "lr_scheduler": ("lr_scheduler_type",),
    "max_seq_len": ("max_length",),
    "max_seq_length": ("max_length",),
    "model": ("base",),
    "model_name": ("base",),
    "model_name_or_path": ("base",),
    "modules": ("target_modules",),
    "msa_layers": ("num_msa_layers",),
    "n_s": ("num_msa_layers",),
    "nodes": ("max_nodes",),
    "num_epochs": ("num_train_epochs",),
    "only": ("method",),
    "optimizer": ("optim",),
    "precision": ("dtype",),
    "quantize": ("quantization",),
    "rank": ("r",),
    "scheduler": ("lr_scheduler_type",),
    "seq_length": ("max_length",),
    "steps": ("max_steps",),
    "streams": ("num_streams",),
    "targets": ("target_modules",),
    "template": ("prompt_template", "completion_template"),
    "theta": ("prune_head_rank",),
    "train_batch_size": ("per_device_train_batch_size",),
    "train_file": ("train",),
    "validation_file": ("validation",),
    "warmup": ("warmup_steps",),
    "wd": ("weight_decay",),
    "γ": ("num_streams",),
    # options and settings of decoding
    "bad_words_ids": ("bad_words",),
    "count": ("limit",),
    "file": ("data",),
    "gpu": ("device",),
    "guided_json": ("json_schema",),
    "guided_regex": ("regex",),
    "input": ("data",),
    "logit_bias": ("sequence_bias",),
    "max_tokens": ("max_new_tokens",),
    "n": ("num_return_sequences",),
    "num_samples": ("limit",),
    "out": ("output",),
    "output_dir": ("output",),
    "output_file": ("output",),
    "rows": ("limit",),
    "schema": ("json_schema",),
    "tokens": ("max_new_tokens",),
    # commands
    "benchmark": ("bench",),
    "check": ("verify",),
    "complete": ("generate",),
    "download": ("pull",),
    "evaluate": ("eval",),
    "fetch": ("bases", "pull"),
    "finetune": ("train",),
    "fit": ("train",),
    "infer": ("generate",),
    "info": ("inspect",),
    "models": ("bases",),
    "publish": ("push",),
    "run": ("generate",),
    "show": ("inspect",),
    "upload": ("push",),
    "version": ("env",),
    # what a recipe has none of
    "do_sample": (),
    "num_beams": (),
    "temperature": (),
    "top_p": (),
}
"""What people call a setting, an option or a command elsewhere -> its names here; none where ssft has no such thing,
and one that is spelt alike would mislead."""

SIMILAR = 0.75
"""Least share of letters that two names have in common, in their order, for one to be taken for a slip of the other."""


def nearest(name: str, known: Iterable[str], whole: bool = False) -> str:
    """`did you mean 'x' or 'y'?` with the known names that `near_names` finds; empty where none is near."""
    near = near_names(name, known, whole)
    return f"did you mean {' or '.join(map(repr, near))}?" if near else ""


def near_names(name: str, known: Iterable[str], whole: bool = False) -> list[str]:
    """The known names that are meant by `name`: those that mean the same (`SYNONYMS`), else those spelt alike.

    A name with sections or folders (`tree.max_nodes`, `peers/medusa_sql`) is compared by its last part alone: the
    section may be wrong or left out, and the letters of the right one say nothing about the rest. `whole`: names have
    no such parts, and a dot is one letter among others.
    """
    key = str.lower if whole else _end
    ends: dict[str, list[str]] = {}
    for full in known:
        ends.setdefault(key(full), []).append(full)
    wanted = key(name)
    if wanted in ends:  # in another section
        same = [wanted]
    elif wanted in SYNONYMS:
        same = [other for other in SYNONYMS[wanted] if other in ends]
    else:
        same = difflib.get_close_matches(wanted, sorted(ends), n=1, cutoff=SIMILAR)
        if not same and len(wanted) > 3:
            same = [end for end in ends if end.startswith(wanted)]
    return [full for end in same for full in ends[end]]


def _end(name: str) -> str:
    return re.split(r"[./]", name.lower().lstrip("-"))[-1].replace("-", "_")
