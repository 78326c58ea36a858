"""What a draft vocabulary covers of a task's answers, and what it costs in accepted drafts."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ssft.base.chat import completion_of
from ssft.bench.answers import encode_rows
from ssft.decoding.draft.streams import StreamDrafter
from ssft.lora.vocabulary import draft_vocabulary
from ssft.training.vocabulary import TokenIds


@dataclass
class VocabularyResult:
    """One draft vocabulary on held-back rows.

    ids: how many token ids it has. covered: share of the completions' tokens that are among them;
    covered_with_prompt: among them or in the row's own prompt. tokens, calls: decoded with it. identical: of `rows`
    decoded texts, how many are those of the whole vocabulary.
    """

    ids: int
    covered: float
    covered_with_prompt: float
    rows: int
    tokens: int
    calls: int
    tokens_per_call: float
    identical: int


def token_rows(adapted: Any, rows: Sequence[dict[str, Any]]) -> list[TokenIds]:
    """Prompt and completion of rows as token ids."""
    completions = [
        adapted.tokenizer(completion_of(row), add_special_tokens=False)["input_ids"] if completion_of(row) else []
        for row in rows
    ]
    return list(zip(encode_rows(adapted, rows), completions, strict=True))


def measure_vocabularies(
    adapted: Any, vocabularies: Iterable[Tensor], rows: Sequence[TokenIds], decoded: int, **decoding: Any
) -> list[VocabularyResult]:
    """The active adapter's streams over the whole vocabulary, then over each of `vocabularies` [v].

    Coverage is of all `rows`; the first `decoded` of them are decoded. `decoding` goes to `MultiAdapterModel.complete`.
    """
    prompts = [prompt for prompt, _ in rows[:decoded]]
    found: list[VocabularyResult] = []
    whole: list[list[int]] = []
    for ids in (None, *vocabularies):
        with adapted.bank.in_use([adapted.active_adapter]) as held:
            adapter = held[adapted.active_adapter]
            vocabulary = draft_vocabulary(adapted.model, ids, adapter.lora.layers)
        results = adapted.complete(prompts, drafter=StreamDrafter(adapter.streams, vocabulary), **decoding)
        texts = [result.token_ids for result in results]
        whole = whole or texts
        known = set(range(adapted.model.config.vocab_size) if ids is None else ids.tolist())
        tokens, calls = sum(map(len, texts)), sum(result.calls for result in results)
        found.append(
            VocabularyResult(
                ids=len(known),
                covered=_covered(((completion, known) for _, completion in rows)),
                covered_with_prompt=_covered((completion, known.union(prompt)) for prompt, completion in rows),
                rows=len(texts),
                tokens=tokens,
                calls=calls,
                tokens_per_call=tokens / calls,
                identical=sum(text == other for text, other in zip(texts, whole, strict=True)),
            )
        )
    return found


def _covered(rows: Iterable[tuple[Sequence[int], set[int]]]) -> float:
    """Share of all tokens that are among those known in their row."""
    hits = [token in known for completion, known in rows for token in completion]
    return sum(hits) / max(len(hits), 1)
