"""`Sampling`: how a request chooses its tokens, under the names of transformers' `generate`."""

from dataclasses import dataclass, field, fields
from typing import Annotated, Any

from pydantic import Field

from ssft.errors import GenerationError, nearest
from ssft.schema import FROM_ZERO, POSITIVE, WHOLE, check_fields, shown

_TEMPERATURE = Annotated[float, Field(ge=1e-3, le=1e3), "a number from 0.001 to 1000"]
_PORTION = Annotated[float, Field(gt=0, le=1), "a number above 0, at most 1"]
_FACTOR = Annotated[float, Field(gt=0, le=1e3), "a number above 0, at most 1000"]
_PENALTY = Annotated[float, Field(ge=-2, le=2), "a number from -2 to 2"]
_SEED = Annotated[int, WHOLE, Field(ge=0, lt=2**63), "a whole number from 0, below 2^63"]
_WORD = Annotated[list[FROM_ZERO], Field(min_length=1)]
_WORDS = Annotated[list[_WORD], Field(min_length=1), "a list of words, each a list of token ids"]
_WEIGHT = Annotated[float, Field(allow_inf_nan=False)]
_SCHEMA = Annotated[dict[str, Any] | str, "a dict or JSON text"]
_TEXT = Annotated[str, "a text"]
_BIAS = Annotated[
    dict[tuple[FROM_ZERO, ...], _WEIGHT], Field(min_length=1), "a dict from tuples of token ids to numbers"
]


@dataclass(frozen=True)
class Sampling:
    """How tokens are chosen. A setting that is None changes nothing; with none at all decoding is greedy.

    With `json_schema`, `regex` or `grammar` the text has that form, whatever the model says: tokens that would leave it
    are never chosen, and the end of the sequence comes where the form allows it. A text that max_new_tokens cuts off is
    the beginning of one. Other settings that forbid tokens come first, those that draw from fewer tokens after it.

    A sampled token is drawn from the main stream's distribution after all settings, by one random number that depends
    on the seed and on the token's position in the sequence (prompt included) alone. So a seed gives the same text
    with drafts and without, alone and in any batch; and a text that is continued with its own seed goes on as it
    would have.
    """

    do_sample: bool | None = field(
        default=None,
        metadata={
            "help": "draw the tokens; without it the likeliest token is taken, unless temperature, top_k, top_p, "
            "min_p, typical_p or seed is set"
        },
    )
    temperature: _TEMPERATURE | None = field(
        default=None, metadata={"help": "divide the logits by it; above 1 the text varies more, below 1 less"}
    )
    top_k: POSITIVE | None = field(default=None, metadata={"help": "draw from the k likeliest tokens only"})
    top_p: _PORTION | None = field(
        default=None, metadata={"help": "draw from the fewest tokens only whose probabilities sum to p"}
    )
    min_p: _PORTION | None = field(
        default=None, metadata={"help": "drop tokens less likely than this share of the likeliest one's probability"}
    )
    typical_p: _PORTION | None = field(
        default=None, metadata={"help": "draw from the most typical tokens only whose probabilities sum to p"}
    )
    repetition_penalty: _FACTOR | None = field(
        default=None, metadata={"help": "above 1: make tokens of the prompt and the answer less likely, by a factor"}
    )
    presence_penalty: _PENALTY | None = field(
        default=None, metadata={"help": "lower the logit of every token that the answer has already by this"}
    )
    frequency_penalty: _PENALTY | None = field(
        default=None, metadata={"help": "the same, times how often the answer has the token"}
    )
    no_repeat_ngram_size: POSITIVE | None = field(
        default=None, metadata={"help": "let no run of so many tokens come twice, the prompt included"}
    )
    bad_words_ids: _WORDS | None = field(default=None, metadata={"help": "runs of token ids that never come"})
    sequence_bias: _BIAS | None = field(
        default=None, metadata={"help": "runs of token ids, and what is added to the logit of each one's last token"}
    )
    min_new_tokens: FROM_ZERO | None = field(
        default=None, metadata={"help": "let no end-of-sequence or stop token come before so many tokens"}
    )
    json_schema: _SCHEMA | None = field(
        default=None,
        metadata={"help": "the text is JSON that this schema describes, spaced as Python's json.dumps does it"},
    )
    regex: _TEXT | None = field(
        default=None, metadata={"help": "the whole text matches this regular expression, in the syntax of Rust's regex"}
    )
    grammar: _TEXT | None = field(
        default=None, metadata={"help": "the text is one of this grammar, in llguidance's form of Lark's syntax"}
    )
    seed: _SEED | None = field(
        default=None, metadata={"help": "of the random numbers; without one torch's own generator gives it"}
    )

    def __post_init__(self) -> None:
        """Raises `GenerationError` for a setting of another type, out of range, or against another."""
        check_fields(self, Sampling, error=GenerationError)
        given = [name for name in _DRAWING if getattr(self, name) is not None]
        if self.do_sample is False and given:
            raise GenerationError(
                f"do_sample=False with {given[0]}={getattr(self, given[0])}: the likeliest token is taken, whatever "
                f"{given[0]} is; leave one of the two out"
            )
        if self.sequence_bias is not None and any(not ids for ids in self.sequence_bias):
            raise GenerationError("sequence_bias has an entry without token ids; leave it out")
        _ = self.form

    @property
    def sampled(self) -> bool:
        """Whether tokens are drawn."""
        return self.do_sample or any(getattr(self, name) is not None for name in _DRAWING)

    @property
    def form(self) -> tuple[str, str] | None:
        """What the text must look like, as (name of the setting, text); raises `GenerationError` if that is wrong."""
        values = (self.json_schema, self.regex, self.grammar)
        if values == (None, None, None):
            return None
        from ssft.decoding.grammar.engine import given  # a library of its own, which most calls do without

        return given(*values)

    def check_ids(self, vocab_size: int) -> None:
        """Raise `GenerationError` for a token id that the model lacks."""
        for name in ("bad_words_ids", "sequence_bias"):
            if unknown := [token for ids in getattr(self, name) or () for token in ids if token >= vocab_size]:
                raise GenerationError(
                    f"{name} has the token id {shown(unknown[0])}, but the model knows 0 to {vocab_size - 1} only; "
                    "take ids from the base's own tokenizer"
                )


_DRAWING = ("temperature", "top_k", "top_p", "min_p", "typical_p", "seed")
"""Settings without a meaning where the likeliest token is taken; one of them asks for sampling."""

SETTINGS = tuple(f.name for f in fields(Sampling))


def check_names(settings: dict[str, Any]) -> None:
    """Raise `GenerationError` for a keyword that is no setting of `Sampling`."""
    for name in settings:
        if name not in SETTINGS:
            hint = nearest(name, SETTINGS) or f"how tokens are chosen is told by {', '.join(SETTINGS)}"
            raise GenerationError(f"{name} is no setting of this call; {hint}")
