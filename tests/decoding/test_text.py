"""The pieces of a text, joined, are the text, whatever is pushed at a time; nothing given is ever taken back."""

import random

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from ssft.decoding.stops import StopStrings
from ssft.decoding.text import INCOMPLETE, GrowingText, TextPieces

WORDS = ["st", "op", "opp", "s", "stop", "ab", "\n", "\n\n", " ", " a", "é", "你好", "😀", "👩‍👧", "x", "<s>"]
STOPS = [None, ["stop"], ["stop", "st"], ["b", "abcd", "\n\n"], ["a s", "你"], ["😀"], ["nowhere"]]
MERGES = [("s", "t"), ("o", "p"), ("op", "p"), ("a", "b")]


def byte_level():
    """As GPT-2 and its successors: a token is some bytes."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: i for i, token in enumerate([*alphabet, *(a + b for a, b in MERGES)])}
    tokenizer = Tokenizer(models.BPE(vocabulary, MERGES))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<s>"])
    return tokenizer


def byte_fallback():
    """As Llama 2: spaces are a character of their own, unknown ones are bytes, a text's first space is dropped."""
    words = [*"▁abstopx\n", "st", "op", "▁a", *(f"<0x{byte:02X}>" for byte in range(256))]
    merges = [("s", "t"), ("o", "p"), ("▁", "a")]
    tokenizer = Tokenizer(models.BPE({word: i for i, word in enumerate(words)}, merges, byte_fallback=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    strip = decoders.Strip(" ", 1, 0)
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), strip])
    tokenizer.add_special_tokens(["<s>"])
    return tokenizer


TOKENIZERS = {"byte_level": byte_level(), "byte_fallback": byte_fallback()}


@pytest.fixture(params=TOKENIZERS)
def tokenizer(request):
    return TOKENIZERS[request.param]


def random_sequence(tokenizer, seed, broken):
    """Token ids of a random text; `broken`: some are lost, so that some characters never become whole."""
    draw = random.Random(seed)
    ids = tokenizer.encode("".join(draw.choices(WORDS, k=draw.randint(0, 60)))).ids
    return [token for token in ids if draw.random() < 0.9] if broken else ids


def runs(length, seed):
    """Growing lengths up to `length`: 1 to 4 tokens more each time, as many as a pass may accept."""
    draw, at = random.Random(seed), 0
    while at < length:
        at = min(length, at + draw.randint(1, 4))
        yield at


@pytest.mark.parametrize("strings", STOPS, ids=repr)
def test_joined_pieces_are_the_cut_text(tokenizer, strings):
    stopped = 0
    for seed in range(120):
        # A byte that breaks a character also breaks those before it where bytes are a fallback: the text is rewritten.
        ids = random_sequence(tokenizer, seed, broken=seed % 4 == 0 and tokenizer is TOKENIZERS["byte_level"])
        stops = None if strings is None else StopStrings(strings, tokenizer.decode)
        if stops is not None:
            # The engine ends a sequence with the token that completes a stop string.
            end = next((length for length in range(1, len(ids) + 1) if stops(ids[:length])), len(ids))
            ids, stopped = ids[:end], stopped + (end < len(ids))
        pieces, given = TextPieces(tokenizer.decode, stops), ""
        text = tokenizer.decode(ids)
        whole = text if stops is None else stops.cut(text)
        for length in runs(len(ids), seed):
            given += pieces.push(ids[:length], last=length == len(ids))
            assert whole.startswith(given)
        assert given == (whole if ids else "")
    assert bool(stopped) == (strings not in (None, ["nowhere"]))


def test_text_is_given_as_soon_as_it_is_final():
    decode = TOKENIZERS["byte_level"].decode
    ids = TOKENIZERS["byte_level"].encode("é x😀s t").ids
    pieces = TextPieces(decode, StopStrings(["stop"], decode))
    given = [pieces.push(ids[:length]) for length in range(1, len(ids) + 1)]
    assert given == ["", "é", " ", "x", "", "", "", "😀", "", "s ", "t"]
    assert decode(ids[:5]).endswith(INCOMPLETE)


def test_what_is_held_back_comes_with_the_last_push():
    tokenizer = TOKENIZERS["byte_level"]
    ids = tokenizer.encode("a st").ids
    pieces = TextPieces(tokenizer.decode, StopStrings(["stop"], tokenizer.decode))
    assert [pieces.push(ids), pieces.push(ids, last=True)] == ["a ", "st"]
    ids = tokenizer.encode("a😀").ids[:-1]
    pieces = TextPieces(tokenizer.decode)
    assert [pieces.push(ids), pieces.push(ids, last=True)] == ["a", INCOMPLETE]


def test_nothing_behind_a_stop_string_is_given():
    """Not even where ids go on after it and it is not the last push."""
    tokenizer = TOKENIZERS["byte_level"]
    ids = tokenizer.encode("a stop and x").ids
    pieces = TextPieces(tokenizer.decode, StopStrings(["stop"], tokenizer.decode))
    assert [pieces.push(ids[:9]), pieces.push(ids), pieces.push(ids, last=True)] == ["a ", "", ""]


def test_a_longer_stop_string_may_begin_before_a_complete_one():
    """Ids may go on after a stop string, where the caller does not end the sequence there."""
    decode = TOKENIZERS["byte_level"].decode
    stops = StopStrings(["b", "abcd"], decode)
    ids = TOKENIZERS["byte_level"].encode("xabcd").ids
    pieces = TextPieces(decode, stops)
    given = "".join(pieces.push(ids[:length], last=length == len(ids)) for length in range(1, len(ids) + 1))
    assert given == stops.cut("xabcd") == "x"


class Rewriting:
    """A decoder that takes the space away in front of a full stop, as clean_up_tokenization_spaces does."""

    words = ("we", " stop", " ", ".", " and", " go")

    def decode(self, ids):
        return "".join(self.words[token] for token in ids).replace(" .", ".")


def test_rewritten_text_is_held_back_until_it_continues_what_was_given():
    pieces = TextPieces(Rewriting().decode)
    sequence = [0, 1, 2, 3, 4, 5]
    given = [pieces.push(sequence[:length], last=length == 6) for length in range(1, 7)]
    assert Rewriting().decode(sequence) == "we stop. and go"
    # "we stop " was given; "we stop." contradicts it, and so does all that follows.
    assert given == ["we", " stop", " ", "", "", ". and go"]


def test_growing_text_is_the_text(tokenizer):
    """Also where ids do not continue those before."""
    growing = GrowingText(tokenizer.decode)
    for seed in range(60):
        ids = random_sequence(tokenizer, seed, broken=seed % 4 == 0)
        for length in [*runs(len(ids), seed), len(ids), len(ids) // 2]:
            assert growing.read(ids[:length]) == tokenizer.decode(ids[:length])


def test_growing_text_behind_tokens_without_text():
    """A window of them would make the space of the next token the first of the text, which decoders drop."""
    tokenizer = TOKENIZERS["byte_fallback"]
    ids = [*tokenizer.encode("ab").ids, *[tokenizer.token_to_id("<s>")] * 12, tokenizer.token_to_id("▁a")]
    growing = GrowingText(tokenizer.decode)
    texts = [growing.read(ids[:length]) for length in range(1, len(ids) + 1)]
    assert texts == [tokenizer.decode(ids[:length]) for length in range(1, len(ids) + 1)]
    assert texts[-1] == "ab a"


def test_growing_text_of_rewritten_tokens():
    growing, draw = GrowingText(Rewriting().decode), random.Random(0)
    ids = draw.choices(range(6), k=200)
    for length in range(1, 201):
        assert growing.read(ids[:length]) == Rewriting().decode(ids[:length])
