"""Conversations with a model: it answers, and asks itself where nobody does (Magpie, Xu et al., arXiv 2406.08464)."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ssft.base.chat import open_user_turn
from ssft.distill.questions import fault_of

if TYPE_CHECKING:
    from ssft.runtime.model import MultiAdapterModel

Row = dict[str, Any]
"""What training reads: `messages`, or `prompt` and `completion`."""


@dataclass(frozen=True)
class Talk:
    """What decides the text of a conversation, beside the model.

    turns: how often the user speaks. seed: row i, from 0, draws with seed + i. answers, questions: how tokens are
    chosen, settings of `Sampling`; an empty dict takes the likeliest. keep_cut_off: whether a conversation ends with an
    answer that `max_new_tokens` cut off, which the row then says as `cut_off`; else it is left out.
    """

    turns: int = 1
    max_new_tokens: int = 512
    max_question_tokens: int = 256
    seed: int = 0
    answers: dict[str, Any] = field(default_factory=dict)
    questions: dict[str, Any] = field(default_factory=lambda: {"temperature": 1.0, "top_p": 0.95})
    keep_cut_off: bool = False


class Talker:
    """Holds a batch of conversations at a time; with the active adapter, and its streams if it has some.

    `calls` and `tokens` count the model's calls and the tokens of all questions and answers.
    """

    def __init__(self, adapted: "MultiAdapterModel", how: Talk) -> None:
        self.adapted, self.how = adapted, how
        self.calls = self.tokens = 0
        tokenizer = adapted.tokenizer
        self._special = {
            *tokenizer.all_special_ids,
            *(i for i, t in tokenizer.added_tokens_decoder.items() if t.special),
        }

    def rows(self, starts: Sequence[Row], numbers: Sequence[int], known: Callable[[str], bool]) -> list[Row | str]:
        """The whole conversation for each of `starts`, or in a word why there is none.

        Args:
            starts: `prompt`, or `messages`, which may be empty: the model then asks first.
            numbers: of the rows, from 0, for their seeds.
            known: whether a first question of the model's own is nearly one that was kept.
        """
        found: list[Row | str] = [dict(start) for start in starts]
        for _ in range(self.how.turns):
            self._ask(found, numbers, known)
            self._answer(found, numbers)
        return found

    def _ask(self, found: list[Row | str], numbers: Sequence[int], known: Callable[[str], bool]) -> None:
        """Put a question of the model's own behind each conversation in which it is the user's turn."""
        asking = [i for i, row in enumerate(found) if _goes_on(row) and _users_turn(row)]
        waiting: list[Any] = [found[i] for i in asking]
        opened = [open_user_turn(row["messages"], self.adapted.tokenizer) for row in waiting]
        prompts = [self._ids(before) for before, _ in opened]
        ends = self._ids(opened[0][1]) if opened else []
        special = [token for token in ends if token in self._special]
        how: dict[str, Any] = {}
        if opened:
            how = {"stop_token_ids": special} if special else {"stop": opened[0][1].strip(" ") or None}
        for i, said in self._generate(found, asking, prompts, numbers, self.how.max_question_tokens, how, True):
            row, question = found[i], said["text"].strip()
            assert isinstance(row, dict)
            if said["finish_reason"] == "length":
                found[i] = "question cut off"
            elif self._special & set(said["token_ids"][:-1]):
                found[i] = "question malformed"
            elif fault := fault_of(question):
                found[i] = f"question {fault}"
            elif not row["messages"] and known(question):
                found[i] = NEAR_DUPLICATE
            else:
                row["messages"] = [*row["messages"], {"role": "user", "content": question}]

    def _answer(self, found: list[Row | str], numbers: Sequence[int]) -> None:
        """Put the model's answer behind each conversation. One that was cut off has no end to learn, so that it is kept
        only where that was asked for."""
        answering = [i for i, row in enumerate(found) if _goes_on(row)]
        prompts = [self.adapted.encode(found[i]) for i in answering]
        for i, said in self._generate(found, answering, prompts, numbers, self.how.max_new_tokens, {}, False):
            row = found[i]
            assert isinstance(row, dict)
            cut_off = said["finish_reason"] == "length"
            if cut_off and not self.how.keep_cut_off:
                found[i] = "answer cut off"
            elif not said["text"].strip():
                found[i] = "answer empty"
            elif "messages" in row:
                row["messages"] = [*row["messages"], {"role": "assistant", "content": said["text"]}]
            else:
                row["completion"] = said["text"]
            if cut_off:
                row[CUT_OFF] = True

    def _generate(
        self,
        found: list[Row | str],
        chosen: list[int],
        prompts: list[list[int]],
        numbers: Sequence[int],
        most: int,
        stops: dict[str, Any],
        asks: bool,
    ) -> list[tuple[int, dict[str, Any]]]:
        """(place in `found`, what came) for each of `chosen` whose prompt leaves room; the others are left out."""
        context = self.adapted.hooks.backbone.context_length
        fits = [(i, prompt) for i, prompt in zip(chosen, prompts, strict=True) if 0 < len(prompt) < context]
        for i in {*chosen} - {i for i, _ in fits}:
            found[i] = "no room in the context"
        if not fits:
            return []
        sampling = dict(self.how.questions if asks else self.how.answers)
        if sampling:
            sampling["seed"] = [self.how.seed + numbers[i] for i, _ in fits]
        said = self.adapted.generate(
            [prompt for _, prompt in fits], max_new_tokens=most, return_dict=True, **stops, **sampling
        )
        self.calls += sum(one["calls"] for one in said)
        self.tokens += sum(one["tokens"] for one in said)
        return [(i, one) for (i, _), one in zip(fits, said, strict=True)]

    def _ids(self, text: str) -> list[int]:
        return list(self.adapted.tokenizer(text, add_special_tokens=False)["input_ids"])


NEAR_DUPLICATE = "question nearly asked before"
CUT_OFF = "cut_off"
"""Key of a row whose last answer has no end."""


def _goes_on(row: Row | str) -> bool:
    """Whether it is a conversation, and its last answer is whole."""
    return isinstance(row, dict) and CUT_OFF not in row


def _users_turn(row: Row | str) -> bool:
    """Whether a conversation waits for the user."""
    return (
        isinstance(row, dict)
        and "messages" in row
        and (not row["messages"] or row["messages"][-1]["role"] in ("assistant", "system"))
    )
