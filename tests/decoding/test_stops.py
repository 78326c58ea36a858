"""Stop strings are found in the text, wherever tokens begin and end; the reference is a search in all of the text."""

import random

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from ssft.decoding.stops import StopStrings
from ssft.decoding.text import WINDOW
from ssft.errors import GenerationError

MERGES = [("s", "t"), ("o", "p"), ("op", "p"), ("a", "b"), ("ab", "ab")]
WORDS = ["st", "op", "opp", "s", "stop", "ab", "abab", "b", "\n", "\n\n", " ", "é", "你好", "😀", "👩‍👧", "x"]
STOPS = [["stop"], ["stop", "st"], ["\n\n", "ab"], ["abc", "bab"], ["你", "好x"], ["😀"], ["👧"], ["nowhere"], []]


def byte_level():
    """One token per byte and some of several characters: what emoji and stop strings are split over."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: i for i, token in enumerate([*alphabet, *(a + b for a, b in MERGES)])}
    tokenizer = Tokenizer(models.BPE(vocabulary, MERGES))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


TOKENIZER = byte_level()


def random_sequence(seed):
    """Token ids of a random text; in every third one some are lost, so that characters are broken for good."""
    draw = random.Random(seed)
    ids = TOKENIZER.encode("".join(draw.choices(WORDS, k=draw.randint(0, 60)))).ids
    return ids if seed % 3 else [token for token in ids if draw.random() < 0.9]


@pytest.mark.parametrize("strings", STOPS, ids=repr)
def test_found_as_soon_as_the_text_holds_one(strings):
    found = 0
    for seed in range(40):
        ids = random_sequence(seed)
        stops = StopStrings(strings, TOKENIZER.decode)
        for length in range(1, len(ids) + 1):
            expected = any(string in TOKENIZER.decode(ids[:length]) for string in strings)
            assert stops(ids[:length]) == expected
            found += expected
    assert bool(found) == (strings not in (["nowhere"], []))


def test_one_object_serves_sequences_in_turns():
    stops = StopStrings(["stop", "ab"], TOKENIZER.decode)
    sequences = [random_sequence(seed) for seed in range(1, 30)]
    for length in range(1, 40):
        for ids in sequences:
            text = TOKENIZER.decode(ids[:length])
            assert stops(ids[:length]) == ("stop" in text or "ab" in text)


def test_completed_in_the_middle_of_a_token():
    ids = TOKENIZER.encode("stopper").ids
    assert [TOKENIZER.decode([token]) for token in ids] == ["st", "opp", "e", "r"]
    stops = StopStrings(["stop"], TOKENIZER.decode)
    assert [stops(ids[:length]) for length in (1, 2)] == [False, True]
    assert stops.cut("a stopp") == "a "


def test_only_the_last_tokens_are_decoded_while_nothing_is_found():
    lengths = []

    def decode(ids):
        lengths.append(len(ids))
        return TOKENIZER.decode(ids)

    ids = TOKENIZER.encode("x😀 " * 100).ids
    stops = StopStrings(["stop"], decode)
    assert not any(stops(ids[:length]) for length in range(1, len(ids) + 1))
    # The window begins at a character's end, at most 3 bytes earlier, and the new character has at most 4.
    assert max(lengths) <= WINDOW + 3 + 4 < len(ids)


@pytest.mark.parametrize(
    ("strings", "text", "kept"),
    [
        (["b", "abcd"], "xabcd", "x"),
        (["b", "abcd"], "xabc", "xa"),
        (["st", "stop"], "a stop", "a "),
        (["zz"], "text", "text"),
        ([], "text", "text"),
        (["t"], "text", ""),
        ("ext", "text", "t"),
    ],
)
def test_cut_at_the_one_that_begins_first(strings, text, kept):
    assert StopStrings(strings, TOKENIZER.decode).cut(text) == kept


@pytest.mark.parametrize(
    ("strings", "text", "length"),
    [
        (["stop"], "a sto", 3),
        (["stop"], "a stop", 0),
        (["stop"], "a stos", 1),
        (["stop", "op"], "sto", 3),
        (["stop", "op"], "an op", 0),
        (["aab"], "aaa", 2),
        (["\n\n"], "line\n", 1),
        (["x"], "text", 0),
        (["longer than the text"], "long", 4),
        (["stop"], "", 0),
        ([], "text", 0),
    ],
)
def test_open_end(strings, text, length):
    assert StopStrings(strings, TOKENIZER.decode).open_end(text) == length


def test_an_empty_stop_string_is_refused():
    with pytest.raises(GenerationError, match=r"stop strings \['a', ''\] hold an empty one.* leave it out of stop"):
        StopStrings(["a", ""], TOKENIZER.decode)
    with pytest.raises(GenerationError, match="hold an empty one"):
        StopStrings("", TOKENIZER.decode)
