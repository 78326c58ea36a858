"""llguidance, which knows what tokens may come next: the one file that imports it.

A grammar is compiled for a tokenizer once, and every row gets a copy of it to move through its text (`parser.py`).
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any
from weakref import WeakKeyDictionary

from llguidance import LLMatcher, LLTokenizer

from ssft.decoding.grammar.json_schema import schema_text
from ssft.errors import GenerationError

FORMS = ("json_schema", "regex", "grammar")
"""How a grammar may be given."""

KEPT = 64
"""Compiled grammars of one tokenizer that are kept."""

_JSON: Any = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
"""As Python's `json.dumps` writes it. A model that may write any whitespace may write it without end."""

_SOURCES: dict[str, Callable[[str], str]] = {
    "json_schema": lambda text: LLMatcher.grammar_from_json_schema(text, overrides=_JSON),
    "regex": LLMatcher.grammar_from_regex,
    "grammar": LLMatcher.grammar_from_lark,
}


@dataclass(frozen=True)
class Grammar:
    """A grammar, compiled for a tokenizer. form, text: as it was given."""

    form: str
    text: str
    matcher: LLMatcher = field(repr=False, compare=False)

    def start(self) -> LLMatcher:
        """The engine at the beginning of a text."""
        return self.matcher.deep_copy()

    def fail(self, error: str) -> GenerationError:
        """An error of the engine as one to raise."""
        return _failure(self.form, error)


def given(json_schema: Any = None, regex: str | None = None, grammar: str | None = None) -> tuple[str, str] | None:
    """(form, text) of the one that is given; None if none is.

    Raises:
        GenerationError: several are given, or what is given cannot be read, whatever the tokenizer.
    """
    values = {"json_schema": json_schema, "regex": regex, "grammar": grammar}
    forms = [form for form in FORMS if values[form] is not None]
    if len(forms) > 1:
        raise GenerationError(f"{' and '.join(forms)} are given, but a text can follow one only; leave the others out")
    if not forms:
        return None
    (form,) = forms
    text = schema_text(values[form]) if form == "json_schema" else values[form]
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise GenerationError(f"{form} holds half a surrogate pair, which is no character; leave it out") from error
    if wrong := LLMatcher.validate_grammar(_SOURCES[form](text)):
        raise _failure(form, wrong)
    return form, text


def compile_grammar(form: str, text: str, tokenizer: Any, ends: Iterable[int]) -> Grammar:
    """The grammar over the tokens of a tokenizer, as `given` returned it; `ends` are the ids that end a text.

    Raises:
        GenerationError: no text fits the grammar, it is beyond the engine's limits, or nothing can end the text.
    """
    ends = tuple(sorted(token for token in ends if token < len(tokenizer)))
    if not ends:
        raise GenerationError(
            f"{form}: a text that is to end where {form} says so needs an end-of-sequence token; leave ignore_eos "
            "out, or give a tokenizer that has such a token"
        )
    compiled = _COMPILED.setdefault(tokenizer, {})
    key = (len(tokenizer), ends)
    if key not in compiled:
        compiled[key] = _compiler(tokenizer, ends)
    return compiled[key](form, text)


_COMPILED: WeakKeyDictionary[Any, dict[Any, Callable[[str, str], Grammar]]] = WeakKeyDictionary()


def _compiler(tokenizer: Any, ends: tuple[int, ...]) -> Callable[[str, str], Grammar]:
    """A function of (form, text) that keeps what it compiled."""
    from llguidance.hf import from_tokenizer  # imports transformers

    try:
        tokens = from_tokenizer(tokenizer, eos_token=list(ends))
    except Exception as error:  # of Rust: of many kinds
        raise GenerationError(
            f"json_schema, regex and grammar need a tokenizer whose tokens are known as bytes, and this one's are not "
            f"({_first_line(str(error))}); leave them out, or take a base with another tokenizer"
        ) from error

    @lru_cache(KEPT)
    def compiled(form: str, text: str) -> Grammar:
        return _checked(form, text, tokens)

    return compiled


def _checked(form: str, text: str, tokens: LLTokenizer) -> Grammar:
    grammar = Grammar(form, text, LLMatcher(tokens, _SOURCES[form](text), log_level=0))
    if error := grammar.matcher.get_error():
        raise grammar.fail(error)
    trial = grammar.start()
    # Whoever fails at the first tokens fails before the first pass.
    trial.compute_bitmask()
    for token in trial.compute_ff_tokens()[:1]:
        trial.consume_token(token)
        trial.compute_bitmask()
    if error := trial.get_error():
        raise grammar.fail(error)
    return grammar


def _failure(form: str, error: str) -> GenerationError:
    if error.startswith("NoExtension"):
        return GenerationError(f"{form}: no text fits it; allow at least one")
    if error.startswith(("ParserTooComplex", "LexerTooComplex")) or "too many" in error or "limit" in error:
        return GenerationError(f"{form} is too complex ({_first_line(error)}); ask for less, or repeat less often")
    return GenerationError(f"{form} cannot be met: {_first_line(error)}; correct {form}")


def _first_line(text: str) -> str:
    """What an error of the engine says, on one line and short."""
    line = " ".join(text.split())
    return line if len(line) <= 200 else f"{line[:197]}..."
