"""Prompts as text, and rows that are longer than a run can read."""

import pytest

from ssft.base.chat import render_prompt
from ssft.errors import DataError
from ssft.recipes.lengths import fit_lengths

ROW = {"prompt": "a b", "completion": "c d"}
CHAT = {"messages": [{"role": "user", "content": "hi there"}, {"role": "assistant", "content": "hello"}]}


class WordTokenizer:
    """One token per word."""

    chat_template = "a template"

    def __call__(self, texts, add_special_tokens):
        assert add_special_tokens is False
        return {"input_ids": [text.split() for text in texts]}

    def apply_chat_template(self, messages, add_generation_prompt, tokenize):
        assert (add_generation_prompt, tokenize) == (True, False)
        return " ".join(f"<{m['role']}> {m['content']}" for m in messages) + " <assistant>"


def test_render_prompt():
    assert render_prompt(ROW, WordTokenizer()) == "a b"
    assert render_prompt(CHAT, WordTokenizer()) == "<user> hi there <assistant>"


def test_messages_need_a_chat_template():
    tokenizer = WordTokenizer()
    tokenizer.chat_template = None
    with pytest.raises(DataError, match=r"no chat template; give `prompt`"):
        render_prompt(CHAT, tokenizer)


def test_lengths_that_fit():
    # 2 prompt + 2 completion tokens + end of sequence
    rows = [ROW, {"prompt": "a b c d e"}]
    assert fit_lengths(rows, WordTokenizer(), 5, "error", "train") == (rows, "")
    # <user> hi there <assistant> + hello + end of sequence
    assert fit_lengths([CHAT], WordTokenizer(), 6, "error", "train") == ([CHAT], "")


@pytest.mark.parametrize(
    ("row", "limit", "message"),
    [
        (ROW, 4, r"data\.train, row 301: prompt and completion have 2 \+ 3 tokens, and 4 fit; .*max_length"),
        (CHAT, 5, r"row 301: prompt and completion have 4 \+ 2 tokens, .* set data\.long_rows=drop or cut"),
    ],
)
def test_a_long_row_is_an_error_where_asked_for(row, limit, message):
    rows = [{"prompt": "a"}] * 300 + [row]
    with pytest.raises(DataError, match=message):
        fit_lengths(rows, WordTokenizer(), limit, "error", "train")


LONG = [
    {"prompt": "a", "completion": "b"},
    {"prompt": "a b c", "completion": "d e"},
    {"prompt": "a b c d", "completion": "e"},
]


def test_long_rows_are_left_out_and_counted():
    kept, told = fit_lengths(LONG * 1000, WordTokenizer(), 4, "drop", "train")
    assert kept == LONG[:1] * 1000
    assert told == "longer than 4 tokens: 2,000 left out (data.long_rows=drop)"


def test_a_row_is_cut_only_where_its_prompt_leaves_room():
    kept, told = fit_lengths(LONG, WordTokenizer(), 4, "cut", "train")
    assert kept == LONG[:2]
    assert told == "longer than 4 tokens: 1 left out, 1 cut (data.long_rows=cut)"


def test_no_row_left_is_an_error():
    with pytest.raises(
        DataError, match=r"data\.validation: none of 2 rows fits into 3 tokens; raise training.max_length"
    ):
        fit_lengths(LONG[1:], WordTokenizer(), 3, "drop", "validation")
