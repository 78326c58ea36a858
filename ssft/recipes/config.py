"""The section `data` of a recipe: where rows come from, how their columns become prompt and completion, how many."""

from dataclasses import dataclass, field
from typing import Literal

from ssft.errors import ConfigError, nearest
from ssft.recipes.template import template_columns
from ssft.schema import setting

QUICKSTART = "quickstart"
ROW_KEYS = ("prompt", "completion", "messages", "references", "category")
"""What a row is made of once it is in form."""


@dataclass
class DataConfig:
    """Where training and validation rows come from, and how their columns become prompt and completion.

    Files and hub datasets are read alike: columns that `columns` and the templates name are put into form by them,
    rows in a form that is known (`ssft.recipes.forms`) are taken as they stand.
    """

    train: str = setting(
        QUICKSTART,
        "file (JSONL, JSON, CSV, parquet) or folder of such files, hub dataset owner/name[:config], or 'quickstart' "
        "(built in)",
    )
    validation: str = setting(
        "", "as train; empty: the source of train (validation_split of a hub dataset, else validation_fraction)"
    )
    train_split: str = setting("train", "hub datasets: split to train on")
    validation_split: str = setting("", "hub datasets: split to validate on; empty: held back from the training split")
    revision: str = setting(
        "",
        "hub datasets: branch, tag or commit; 'refs/convert/parquet' is the hub's own copy of a dataset "
        "that needs a loading script",
    )
    columns: dict[str, str] = field(
        default_factory=dict,
        metadata={
            "help": "which column holds what, such as {prompt: text, completion: label}; the keys are "
            + ", ".join(ROW_KEYS)
        },
    )
    prompt_template: str = setting("", "the prompt as a text with {column} in it, such as 'Question: {question}'")
    completion_template: str = setting("", "the completion, as prompt_template")
    learned_turns: Literal["last", "all"] = setting(
        "last",
        "which of the assistant's messages in `messages` carry the loss: the last, or all, where a chat of several "
        "becomes several rows that end with one each",
    )
    long_rows: Literal["drop", "cut", "error"] = setting(
        "drop",
        "what becomes of a row with more tokens than training.max_length or the base's context: left out, cut at the "
        "end of its completion, or the end of the run",
    )
    max_train_rows: int = setting(0, "most training rows, drawn at random by the seed; 0: all (quickstart: 300)")
    max_validation_rows: int = setting(0, "most validation rows, drawn at random by the seed; 0: all (quickstart: 8)")
    validation_fraction: float = setting(
        0.05, "share of the training source held back, drawn by the seed, where it has no validation rows"
    )
    augment: float = setting(
        0.0,
        "share of the training rows, drawn by the seed, in which names and numbers that the completion takes from the "
        "prompt are replaced by made-up ones, the same in both; so streams learn to copy names that they never saw",
    )

    def check_data(self) -> None:
        """Raise `ConfigError` if a field is out of range, a template malformed or a column asked for twice."""
        if not self.train:
            raise ConfigError("data.train is empty: give a file, a folder, a hub dataset owner/name, or quickstart")
        for key in ("max_train_rows", "max_validation_rows"):
            if getattr(self, key) < 0:
                raise ConfigError(f"data.{key}={getattr(self, key)}: 0 (all rows) or a positive number of rows")
        if not 0 < self.validation_fraction < 1:
            raise ConfigError(f"data.validation_fraction={self.validation_fraction}: a share between 0 and 1")
        if not 0 <= self.augment <= 1:
            raise ConfigError(f"data.augment={self.augment}: a share of the training rows from 0 (none) to 1 (all)")
        for key in self.columns:
            if key not in ROW_KEYS:
                hint = nearest(key, ROW_KEYS) or f"there are {', '.join(ROW_KEYS)}"
                raise ConfigError(f"data.columns: a row has no {key!r}; {hint}. Write {{prompt: COLUMN, …}}")
        for key, template in self.templates().items():
            template_columns(template, f"data.{key}_template")
            if key in self.columns:
                raise ConfigError(f"data.columns and data.{key}_template both give the {key}; keep one of the two")
        if "messages" in self.columns and ({"prompt", "completion"} & {*self.columns, *self.templates()}):
            raise ConfigError("data.columns gives messages beside a prompt or a completion; keep one of the two forms")

    def templates(self) -> dict[str, str]:
        """prompt, completion -> their template, where there is one."""
        found = {"prompt": self.prompt_template, "completion": self.completion_template}
        return {key: template for key, template in found.items() if template}
