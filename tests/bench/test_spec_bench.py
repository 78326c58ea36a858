"""Spec-Bench's questions as prompts, and what is said of files that are something else."""

import gzip
import json

import pytest
from conftest import tiny_llama
from fake_adapted import fake_adapted
from tiny_base import tiny_tokenizer

from ssft.bench.measure import measure
from ssft.bench.methods import Setting, build_methods
from ssft.bench.spec_bench import MT_BENCH, MULTI_TURN, SINGLE_TASKS, row_categories, spec_bench_rows
from ssft.errors import ConfigError, DataError

QUESTIONS = [
    {"question_id": 81, "category": "writing", "turns": ["Tell a story.", "Shorter."]},
    {"question_id": 121, "category": "coding", "turns": ["Write code.", "Now in C."], "reference": ["a", "b"]},
    {"question_id": 161, "category": "translation", "turns": ["Guten Tag"], "reference": ["Good day"]},
    {"question_id": 241, "category": "summarization", "turns": ["A long text"]},
    {"question_id": 321, "category": "qa", "turns": ["Who?"]},
    {"question_id": 401, "category": "math_reasoning", "turns": ["1 + 1?"]},
    {"question_id": 481, "category": "rag", "turns": ["Where?"]},
    {"question_id": 482, "category": "rag", "turns": ["When?"]},
]


@pytest.fixture(scope="module")
def adapted():
    adapted = fake_adapted(tiny_llama, vocab_size=len(tiny_tokenizer()))
    adapted.tokenizer = tiny_tokenizer()
    return adapted


@pytest.fixture
def write(tmp_path):
    def write(*questions, name="question.jsonl"):
        path = tmp_path / name
        text = "".join((q if isinstance(q, str) else json.dumps(q)) + "\n" for q in questions)
        path.write_bytes(gzip.compress(text.encode()) if name.endswith(".gz") else text.encode())
        return path

    return write


@pytest.mark.parametrize("name", ["question.jsonl", "question.jsonl.gz"])
def test_the_file_runs_as_it_is(adapted, write, name):
    rows = spec_bench_rows(write(*QUESTIONS, name=name), adapted, 6)
    categories = [row["category"] for row in rows]
    assert categories == [*[MULTI_TURN] * 4, *SINGLE_TASKS, "rag"]
    assert [len(row["messages"]) for row in rows] == [1, 3, 1, 3, *[1] * 6]
    prompts = [adapted.encode(row) for row in rows]
    methods = build_methods(["plain", "streaming"], Setting(adapted, 6, 2))
    result = measure(
        adapted, prompts, methods, max_new_tokens=6, batch_size=2, rounds=1, categories=categories, progress=False
    )
    found = {name: category.rows for name, category in result.methods["streaming"].categories.items()}
    assert found == {MULTI_TURN: 4, "translation": 1, "summarization": 1, "qa": 1, "math_reasoning": 1, "rag": 2}
    assert result.methods["streaming"].identical == 10


def test_a_second_turn_follows_plains_answer(adapted, write):
    first, second = spec_bench_rows(write(QUESTIONS[0]), adapted, 6)
    assert first["messages"] == [{"role": "user", "content": "Tell a story."}]
    (answer,) = build_methods(["plain"], Setting(adapted, 6))["plain"].run([adapted.encode(first)])
    assert len(answer.token_ids) == 6
    assert second["messages"] == [
        *first["messages"],
        {"role": "assistant", "content": adapted.decode(answer.token_ids)},
        {"role": "user", "content": "Shorter."},
    ]


def test_limit_takes_the_first_questions_of_each_category(adapted, write):
    rows = spec_bench_rows(write(*QUESTIONS), adapted, 2, limit=1)
    assert [row["messages"][-1]["content"] for row in rows if row["category"] == "rag"] == ["Where?"]
    # Each of MT-Bench's eight is one of its own here: so all of them are in, and not the first alone.
    assert [row["messages"][-1]["content"] for row in rows if row["category"] == MULTI_TURN] == [
        "Tell a story.",
        "Shorter.",
        "Write code.",
        "Now in C.",
    ]


@pytest.mark.parametrize(
    ("question", "message"),
    [
        ("{broken", r"question\.jsonl, line 2: invalid JSON"),
        ([1], "line 2: category is missing"),
        ({"turns": ["a"]}, r"line 2: category is missing; give Spec-Bench's question\.jsonl"),
        ({"category": " ", "turns": ["a"]}, "line 2: category=' ', expected a text"),
        (
            {"category": "qa", "messages": []},
            "line 2: turns is missing; .*; rows with `messages` .* go with --data FILE",
        ),
        ({"category": "qa", "turns": []}, r"line 2: turns=\[\], expected a list of texts"),
        ({"category": "qa", "turns": "a"}, "line 2: turns='a', expected a list of texts"),
        ({"category": "qa", "turns": ["a", " "]}, "line 2: turns=.'a', ' '., expected a list of texts"),
        ({"category": "qa", "turns": ["a", 5]}, "line 2: turns=.'a', 5., expected a list of texts"),
    ],
)
def test_a_bad_question_is_named(adapted, write, question, message):
    with pytest.raises(DataError, match=message):
        spec_bench_rows(write(QUESTIONS[2], question), adapted, 2)


def test_an_empty_or_missing_file_is_told(adapted, write, tmp_path):
    with pytest.raises(DataError, match=r"question\.jsonl is empty: give Spec-Bench's"):
        spec_bench_rows(write("", ""), adapted, 2)
    with pytest.raises(DataError, match=r"gone\.jsonl: no such file; give Spec-Bench's question\.jsonl"):
        spec_bench_rows(tmp_path / "gone.jsonl", adapted, 2)


def test_a_prompt_longer_than_the_context_is_told(write):
    short = fake_adapted(tiny_llama, vocab_size=len(tiny_tokenizer()), max_position_embeddings=32)
    short.tokenizer = tiny_tokenizer()
    with pytest.raises(DataError, match=r"line 1, turn 2: the prompt has \d+ tokens; .* context of 32"):
        spec_bench_rows(write({"category": "math", "turns": ["abc", "def"]}), short, 4)


def test_a_base_without_chat_template_is_told(write):
    with pytest.raises(ConfigError, match=r"tokenizer under 'tiny' has no chat template; take a base with one.*--data"):
        spec_bench_rows(write(*QUESTIONS), fake_adapted(), 2)


@pytest.mark.parametrize(
    ("names", "grouped"),
    [
        ([*MT_BENCH, "rag"], [*[MULTI_TURN] * 8, "rag"]),
        (MT_BENCH, list(MT_BENCH)),
        (["math", "rag", "my own"], ["math", "rag", "my own"]),
        (["a", None], ["a", "other"]),
        ([None], None),
    ],
)
def test_mt_benchs_categories_are_one_beside_the_other_tasks(names, grouped):
    assert row_categories([{"category": name} for name in names]) == grouped
