"""ROUGE is that of the package rouge-score: the best reference of each type, and sentences as lines."""

import pytest
from rouge_score.rouge_scorer import RougeScorer

from ssft.bench.metrics import rouge, sql
from ssft.bench.metrics.rouge import TYPES, split_sentences

TEXT = "The Golden Palace is a coffee shop. It lies near the river and serves English foods."
REFERENCES = [
    "The Golden Palace is an English coffee shop by the river.",
    "Near the river lies a shop serving English food. It is called The Golden Palace! Prices are high.",
    "Nothing of the kind.",
]


def test_rouge_worked_out_by_hand():
    scores = rouge.score("the cat sat down", ["the cat lay down"])
    # Three of four words, one of three pairs, "the cat … down" in common.
    assert scores == pytest.approx({"rouge1": 75, "rouge2": 100 / 3, "rougeL": 75, "rougeLsum": 75})


def test_rouge_is_the_packages_best_reference_for_each_type():
    lines = [text.replace(". ", ".\n").replace("! ", "!\n") for text in REFERENCES]
    prediction = TEXT.replace(". ", ".\n")
    expected = RougeScorer(list(TYPES), use_stemmer=True).score_multi(lines, prediction)
    scores = rouge.score(TEXT, REFERENCES)
    assert scores == pytest.approx({name: 100 * score.fmeasure for name, score in expected.items()})
    alone = [rouge.score(TEXT, [reference]) for reference in REFERENCES]
    assert scores == {name: max(score[name] for score in alone) for name in TYPES}
    best = {max(range(3), key=lambda i, name=name: alone[i][name]) for name in TYPES}
    assert best == {0, 1}, "the case should need more than one reference"


def test_rouge_stems_words():
    assert rouge.score("serving rivers", ["serves river"])["rouge1"] == pytest.approx(100)


def test_rouge_lsum_compares_sentences():
    swapped = "Prices are high here. The food is good."
    scores = rouge.score(swapped, ["The food is good. Prices are high here."])
    assert scores["rougeLsum"] == pytest.approx(100)
    assert scores["rougeL"] < 60


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("One. Two! Three? Four", ["One.", "Two!", "Three?", "Four"]),
        ('He said "no." (Yes.) So', ['He said "no."', "(Yes.)", "So"]),
        ("It costs 3.50 at a.b now.", ["It costs 3.50 at a.b now."]),
        (" one\ntwo.  \n three ", ["one", "two.", "three"]),
    ],
)
def test_split_sentences(text, lines):
    assert split_sentences(text).split("\n") == lines


@pytest.mark.parametrize("text", ["", " \n", "...", "日本語"])
def test_a_text_without_words_scores_0(text):
    assert rouge.score(text, REFERENCES) == dict.fromkeys(TYPES, 0)
    assert sql.score(text, ["SELECT a"]) == {"exact_match": 0, "normalised_match": 0}
