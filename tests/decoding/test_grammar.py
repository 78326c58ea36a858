"""Grammars: what can be one, where a text stands in it, and the trees that grow from it."""

import functools
import json
import random

import numpy as np
import pytest
import torch
from conftest import TINY, with_adapter
from tiny_base import byte_tokenizer, tiny_tokenizer

from ssft.decoding.config import TREE_KINDS, TreeConfig
from ssft.decoding.draft.drafter import FEWER_FIT, Guesses, Stop, most_likely
from ssft.decoding.draft.forced import ForcedDrafter
from ssft.decoding.draft.grown import grown
from ssft.decoding.draft.lookup import HitRates, Lookup
from ssft.decoding.grammar.engine import compile_grammar, given
from ssft.decoding.grammar.parser import Parser
from ssft.decoding.request import Request
from ssft.decoding.row import Row
from ssft.decoding.sampling import Sampling
from ssft.decoding.scheduler import Scheduler
from ssft.decoding.step import Step
from ssft.decoding.tree import NOTHING, DraftTree, merged
from ssft.errors import GenerationError
from ssft.streams.insertion import StreamHooks

SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 4},
        "kind": {"enum": ["select", "count", 5, None]},
        "items": {
            "type": "array",
            "maxItems": 2,
            "items": {"type": "object", "properties": {"count": {"type": "integer"}}, "required": ["count"]},
        },
    },
    "required": ["name", "kind", "items"],
    "additionalProperties": False,
}
FORMS = {
    "json_schema": SCHEMA,
    "regex": r"(name: [a-z]{2,5}(, )?){1,3};",
    "grammar": 'start: "items" (" " item)+ "."\nitem: "<" item ">" | NUMBER\nNUMBER: /[0-9]{1,3}/',
}


@functools.cache
def tokenizer():
    return byte_tokenizer()


def compiled(form="json_schema", value=None):
    return compile_grammar(*given(**{form: value or FORMS[form]}), tokenizer(), {1})


def bits(mask):
    return set(np.nonzero(np.unpackbits(np.frombuffer(mask, dtype=np.uint8), bitorder="little"))[0].tolist())


def fresh(grammar, tokens):
    """The token ids that may come after `tokens`, by an engine that went straight there."""
    matcher = grammar.start()
    assert matcher.consume_tokens(tokens) or not tokens
    return bits(matcher.compute_bitmask())


def random_text(grammar, rng, most=25):
    """Tokens at random, as far as the grammar lets."""
    tokens = []
    while len(tokens) < most and (may := sorted(fresh(grammar, tokens) - {1})):
        tokens.append(rng.choice(may))
    return tokens


@pytest.mark.parametrize("form", FORMS)
def test_a_parser_knows_what_may_come_wherever_it_went_before(form):
    grammar, rng = compiled(form), random.Random(form)
    for _ in range(4):
        parser, text = Parser(grammar), random_text(grammar, rng)
        done = rng.randrange(len(text))
        parser.advance(text[:done])
        for _ in range(12):
            trail = text[done : rng.randint(done, len(text))]
            if trail and (others := sorted(fresh(grammar, text[:done] + trail[:-1]) - {1, trail[-1]})):
                trail = [*trail[:-1], rng.choice([*others, trail[-1]])]
            may = fresh(grammar, text[:done] + trail)
            assert bits(parser.mask(trail)) == may
            sample = rng.sample(range(len(tokenizer())), 20)
            if not (forced := parser.forced(trail)):
                places = [place for place, token in enumerate(sample) if token in may]
                assert parser.permitted(trail, sample, 20) == places
                assert parser.permitted(trail, sample, 2) == places[:2]
            for place, token in enumerate(forced):
                assert fresh(grammar, text[:done] + trail + forced[:place]) == {token}


def row_of(grammar, produced, config, drafter, left=30):
    request = Request([5, 6], 99, drafter, config, eos_token_ids=frozenset({1}), grammar=grammar)
    row = Row(request, len(produced) + left, DraftTree(produced[-1:]))
    row.result.token_ids, row.parser = produced, Parser(grammar)
    row.parser.advance(produced)
    return row


@pytest.mark.parametrize("looks_up", [False, True])
@pytest.mark.parametrize("kind", TREE_KINDS)
@pytest.mark.parametrize("form", FORMS)
def test_every_node_of_a_tree_may_come_after_its_path_and_nothing_that_could_be_there_is_missing(form, kind, looks_up):
    grammar, rng = compiled(form), random.Random(f"{form}/{kind}")
    sizes = set()
    for _ in range(12):
        produced = random_text(grammar, rng, rng.randint(1, 20))
        guesses = Guesses(
            [rng.sample(range(len(tokenizer())), 150) for _ in range(4)],
            [sorted((-rng.random() * 5 for _ in range(150)), reverse=True) for _ in range(4)],
        )
        config, left = TreeConfig(kind, 14, 3), rng.randint(1, 8)
        row = row_of(grammar, produced, config, ForcedDrafter(), left)
        if looks_up:
            row.lookup = Lookup(row.history, HitRates())
        tree = grown(row, guesses, 14)
        sizes.add(len(tree))
        assert len(tree) <= 14
        assert max(tree.depths) < left
        children = tree.children()
        for node in range(len(tree)):
            may = fresh(grammar, produced + tree.trail(node)) - {1}
            under = set(children.get(node, {}))
            assert under <= may
            room = tree.depths[node] < left - 1 and len(tree) < 14
            if room and len(may) == 1 and not fresh(grammar, produced + tree.trail(node)) & {1}:
                assert under == may
            if room and len(may) > 1:
                depth = tree.depths[node]
                offer = (guesses.tokens[depth], guesses.scores[depth]) if depth < 4 else NOTHING
                if row.lookup is not None:
                    offer = merged(offer, row.lookup.offer(tree.trail(node)))
                wanted = [token for token in offer[0] if token in may]
                assert under == set(wanted[: config.width])
    assert len(sizes) > 2


def test_without_guesses_a_draft_is_what_is_forced_and_without_a_drafter_there_is_none():
    grammar = compiled("regex", "(abcdefgh){3}[xy]")
    parser = Parser(grammar)
    first, *rest = parser.forced([])
    for kind in TREE_KINDS:
        row = row_of(grammar, [first], TreeConfig(kind, 99), ForcedDrafter())
        tree = grown(row, None, 99)
        assert tree.tokens == [first, *rest]
        assert tree.parents == [*range(-1, len(rest))]
        assert grown(row, None, 5).tokens == [first, *rest[:4]]
        assert grown(row_of(grammar, [first], TreeConfig(kind), None), None, 16).tokens == [first]


def test_a_drafts_end_is_left_out():
    grammar = compiled("regex", "a+")
    (a,) = tokenizer().encode("a")
    row = row_of(grammar, [a], TreeConfig("best_first", 9, 4), ForcedDrafter())
    assert grown(row, Guesses([[1, a]], [[-0.1, -1.0]]), 9).tokens == [a, a]


def test_a_grammar_is_compiled_once_for_a_tokenizer_and_its_ends():
    assert compiled() is compiled()
    assert compiled() is not compile_grammar(*given(FORMS["json_schema"]), tokenizer(), {0, 1})
    assert compiled() is not compile_grammar(*given(FORMS["json_schema"]), byte_tokenizer(), {1})


def test_a_model_with_more_logits_than_the_tokenizer_has_tokens_takes_none_of_them():
    hooks = StreamHooks(with_adapter(TINY["llama"](vocab_size=400)))
    request = Request([5, 6], 12, ForcedDrafter(), grammar=compiled("regex", "[a-f]{9}"), eos_token_ids=frozenset({1}))
    greedy = Request([5, 6], 12)
    *_, (result, plain) = Scheduler(Step(hooks)).decode([request, greedy])
    assert result.finish_reason == "eos"
    assert len(tokenizer().decode(result.token_ids[:-1])) == 9
    *_, (alone,) = Scheduler(Step(hooks)).decode([greedy])
    assert plain.token_ids == alone.token_ids


# --- what is no grammar ---


DEEP = functools.reduce(lambda inner, _: {"items": inner}, range(150), {})
LOOP = {"$ref": "#/$defs/a", "$defs": {"a": {"type": "object", "properties": {"b": {"$ref": "#/$defs/b"}},
                                             "required": ["b"]}, "b": {"anyOf": [{"$ref": "#/$defs/a"}]}}}  # fmt: skip
WRONG = {
    "two": ({"regex": "a", "grammar": "start: /a/"}, "regex and grammar are given, but a text can follow one only"),
    "no dict": ({"json_schema": 5}, "json_schema=5, expected a dict or JSON text"),
    "no JSON": ({"json_schema": "{"}, r"json_schema is no JSON \(.*\); give a schema as a dict or as JSON text"),
    "a set": ({"json_schema": {"enum": {1}}}, r"json_schema is no JSON \(Object of type set"),
    "NaN": ({"json_schema": {"enum": [float("nan")]}}, "json_schema is no JSON"),
    "half a pair": ({"json_schema": {"const": "\ud800"}}, "json_schema is no JSON .*half a surrogate pair"),
    "a list": ({"json_schema": "[1]"}, r"json_schema is \[1\], expected a JSON object; give one"),
    "nothing": ({"json_schema": '{"anyOf": [false]}'}, "json_schema cannot be met: Unsatisfiable schema"),
    "a slip": ({"json_schema": {"typ": "string"}}, "json_schema has the key 'typ', .*; did you mean 'type'"),
    "a slip inside": (
        {"json_schema": {"properties": {"a": {"anyOf": [{}, {"maxlength": 5}]}}}},
        r"json_schema.properties.a.anyOf\[1\] has the key 'maxlength', .* did you mean 'maxLength'",
    ),
    "no keyword": ({"json_schema": {"x-guidance": {}}}, "has the key 'x-guidance', which JSON Schema does not know"),
    "a type": ({"json_schema": {"type": "text"}}, "json_schema cannot be met: Invalid type: text; correct json_schema"),
    "not served": ({"json_schema": {"uniqueItems": True}}, r"cannot be met: Unimplemented keys: \[.uniqueItems"),
    "no target": ({"json_schema": {"$ref": "#/$defs/a"}}, "cannot be met: Pointer '/.defs/a' does not exist"),
    "elsewhere": ({"json_schema": {"$ref": "https://example.org/a"}}, "json_schema cannot be met: .*retriev"),
    "bounds": ({"json_schema": {"type": "integer", "minimum": 3, "maximum": 2}}, "Unsatisfiable schema: minimum .3"),
    "types": ({"json_schema": {"type": "string", "const": 5}}, "Unsatisfiable schema: incompatible types"),
    "required": (
        {"json_schema": {"type": "object", "required": ["a"], "additionalProperties": False}},
        "Unsatisfiable schema: required property 'a' is unsatisfiable",
    ),
    "no choice": ({"json_schema": {"enum": []}}, "json_schema cannot be met: Unsatisfiable schema: anyOf is empty"),
    "without end": ({"json_schema": LOOP}, "json_schema asks for a value that holds itself without an end"),
    "itself": ({"json_schema": {"type": "array", "minItems": 1, "items": {"$ref": "#"}}}, "itself without an end"),
    "deep": ({"json_schema": DEEP}, "json_schema has schemas in more than 100 schemas; make it flatter"),
    "an open group": ({"regex": "(a"}, "regex cannot be met: .*unclosed group.*; correct regex"),
    "a look ahead": ({"regex": "(?=a)b"}, "regex cannot be met: .*look-around"),
    "no character": ({"regex": r"[^\s\S]"}, "regex: no text fits it; allow at least one"),
    "too long": ({"regex": "a{4000000000}"}, r"regex is too complex \(.*\); ask for less, or repeat less often"),
    "a number": ({"regex": 5}, "regex=5, expected a text"),
    "half a letter": ({"regex": "\ud800"}, "regex holds half a surrogate pair"),
    "no rule": ({"grammar": ""}, "grammar cannot be met: Empty grammar"),
    "no name": ({"grammar": "start: item"}, "grammar cannot be met: .*unknown name: .item.*; correct grammar"),
    "left of itself": ({"grammar": 'start: start "a"'}, "grammar: no text fits it; allow at least one"),
    "in a ring": ({"grammar": "start: a\na: b\nb: a"}, "grammar: no text fits it"),
    "nested": ({"grammar": "start: " + "(" * 9999 + '"a"' + ")" * 9999}, "grammar cannot be met: .*too deeply nested"),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_what_cannot_be_met_is_told_before_any_pass(case):
    settings, told = WRONG[case]
    with pytest.raises(GenerationError, match=told):
        compile_grammar(*Sampling(**settings).form, tokenizer(), {1})


@pytest.mark.parametrize(
    "schema",
    [
        {"anyOf": [{"$ref": "#"}, {"type": "null"}]},
        {"type": "array", "items": {"$ref": "#"}},
        {"type": "object", "properties": {"next": {"$ref": "#"}}, "required": []},
        {"$ref": "#/$defs/a~1b", "$defs": {"a/b": {"enum": [1]}}},
        {"properties": {"typ": {"type": "string"}}, "$comment": "a property of any name"},
        {"const": {"typ": 1}},
    ],
)
def test_what_has_an_end_is_served(schema):
    text = json.dumps(schema)
    assert given(schema) == given(text) == ("json_schema", text)
    compile_grammar("json_schema", text, tokenizer(), {1})


def test_an_end_and_tokens_of_known_bytes_are_needed():
    with pytest.raises(GenerationError, match="regex: a text that is to end where regex says so needs an end-of-seq"):
        compile_grammar("regex", "a", tokenizer(), ())
    with pytest.raises(GenerationError, match=r"need a tokenizer whose tokens are known as bytes.*\(.*decoder"):
        compile_grammar("regex", "a", tiny_tokenizer(), {1})


def test_an_engine_that_gives_up_later_is_told_then():
    parser = Parser(compiled("regex", "[ab]+"))
    with pytest.raises(GenerationError, match="regex cannot be met"):
        parser.advance(tokenizer().encode("c"))


def test_json_is_spaced_as_python_spaces_it():
    value = {"name": "ab", "kind": 5, "items": [{"count": 1, "more": [True, 1.5, "x"]}, {"count": -2}]}
    matcher = compiled().start()
    assert matcher.consume_tokens(tokenizer().encode(json.dumps(value)))
    assert matcher.is_accepting()
    matcher = compiled().start()
    assert matcher.try_consume_tokens(tokenizer().encode('{"name":"ab"')) < len(tokenizer().encode('{"name":"ab"'))


def test_more_is_guessed_where_a_grammar_leaves_some_of_it_out():
    logits = torch.randn(2, 3, 300, generator=torch.Generator().manual_seed(1))
    first = Parser(compiled()).forced([])[:1]
    rows = [row_of(compiled(), first, TreeConfig("best_first", 9, 2), Two()) for _ in range(2)]
    stops = [Stop(row, b, 0, 5) for b, row in enumerate(rows)]
    assert [len(tokens) for tokens in most_likely(logits, stops)[0].tokens] == [2 * FEWER_FIT] * 2
    for row in rows:
        row.request.grammar = None
    assert [len(tokens) for tokens in most_likely(logits, stops)[0].tokens] == [2, 2]


class Two(ForcedDrafter):
    """Two places ahead."""

    reach = 2
