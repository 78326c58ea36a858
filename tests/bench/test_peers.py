"""The peers through transformers give plain's text, take the passes counted by hand, and refuse what they cannot do."""

import json
from types import SimpleNamespace

import pytest
from built_methods import PROMPT, build, ids, until
from conftest import TINY, VOCABULARY, tiny_llama, tiny_opt
from fake_adapted import FakeTokenizer, counting, fake_adapted, random_prompts, save_draft

from ssft.errors import BaseModelError, ConfigError, GenerationError

DRAFTING = ["prompt_lookup", "assisted"]
NAMES = ["plain", "generate", "generate_static", *DRAFTING]
EVERY_PLACE = list(range(7, 21))

pytestmark = pytest.mark.usefixtures("quick_compiler")


@pytest.fixture(scope="module", params=["llama", "opt"])
def known(request, tmp_path_factory):
    """A model that counts on from its last token, every method for it, and a draft that is always right.

    Methods are built once, since `generate_static` compiles in each; tests set limits and EOS on them.
    """
    architecture = TINY[request.param]
    adapted = fake_adapted(lambda: counting(architecture), scale=0.0)
    peers = tmp_path_factory.mktemp("peers")
    save_draft(peers / "draft", counting(architecture))
    return SimpleNamespace(adapted=adapted, methods={name: build(adapted, name, peers=peers) for name in NAMES})


def decode(known, name, prompt, max_new_tokens, eos=()):
    known.adapted.eos_token_ids = set(eos)
    known.methods[name].max_new_tokens = max_new_tokens
    (result,) = known.methods[name].run([prompt])
    return result


# -- counting, by hand --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "new", "calls", "accepted"),
    [
        ("plain", 30, 30, None),
        ("generate", 30, 30, []),
        ("generate_static", 30, 30, []),
        # 7..16 and 17; 18 19 20 and then the prompt's 5 6, not 21 22, so the drafted 5 fails; from 22 on nothing is
        # found in the text but what follows nowhere: single tokens.
        ("prompt_lookup", 11, 1, []),
        ("prompt_lookup", 12, 2, [1]),
        ("prompt_lookup", 15, 2, [0, 0, 0, 1]),
        ("prompt_lookup", 18, 5, [3, 0, 0, 1]),
        # 20 drafted and one of its own; then 8 (one is left for the adapted model) and one.
        ("assisted", 30, 2, [0, 0, 0, 0, 0, 0, 0, 0, 1]),
        ("assisted", 21, 1, []),
        ("assisted", 22, 2, [1]),
    ],
)
def test_passes_and_accepted_tokens_are_those_counted_by_hand(known, name, new, calls, accepted):
    result = decode(known, name, PROMPT, new)
    assert result.token_ids == list(range(7, 7 + new))
    assert (result.calls, result.finish_reason) == (calls, "length")
    if accepted is not None:
        assert result.accepted == accepted
    # Passes after the first that accepted d tokens gave d + 1; the last of them may be cut by the budget.
    first = {"prompt_lookup": 11, "assisted": 21}.get(name, 1)
    assert result.prompt_tokens == min(first, new)


@pytest.mark.parametrize("name", NAMES)
def test_tokens_of_the_first_pass_are_those_in_the_text(known, name):
    for new, eos in ((4, ()), (30, {9})):
        result = decode(known, name, PROMPT, new, eos)
        assert result.prompt_tokens == (len(result.token_ids) if name in DRAFTING else 1)


@pytest.mark.parametrize("name", NAMES)
def test_a_stop_inside_an_accepted_run_ends_there(known, name):
    for eos in EVERY_PLACE:
        result = decode(known, name, PROMPT, 30, {eos})
        assert (result.token_ids, result.finish_reason) == (list(range(7, eos + 1)), "eos")
        drafted = {"prompt_lookup": 1 if eos <= 17 else 2, "assisted": 1}
        assert result.calls == drafted.get(name, eos - 6)


@pytest.mark.parametrize("name", NAMES)
def test_the_budget_ends_an_accepted_run(known, name):
    for new in range(1, 12):
        result = decode(known, name, PROMPT, new)
        assert (result.token_ids, result.finish_reason) == (list(range(7, 7 + new)), "length")
        assert result.calls == (1 if name in DRAFTING else new)


@pytest.mark.parametrize("name", NAMES)
def test_an_empty_completion_is_the_eos_alone_and_one_call(known, name):
    for prompt in (PROMPT, [6]):
        result = decode(known, name, prompt, 30, {7})
        assert (result.token_ids, result.calls, result.finish_reason) == ([7], 1, "eos")
        # What was drafted after the EOS and accepted is not in the text.
        assert (result.prompt_tokens, result.accepted) == (1, [])


@pytest.mark.parametrize("name", NAMES)
def test_a_budget_of_one_token_takes_one_call(known, name):
    result = decode(known, name, PROMPT, 1)
    assert (result.token_ids, result.calls, result.finish_reason, result.accepted) == ([7], 1, "length", [])
    assert decode(known, name, PROMPT, 1, {7}).finish_reason == "eos"


@pytest.mark.parametrize("name", NAMES)
def test_an_eos_in_the_prompt_ends_nothing(known, name):
    assert decode(known, name, PROMPT, 12, {5, 6}).token_ids == list(range(7, 19))


@pytest.mark.parametrize("name", NAMES)
def test_the_first_tokens_time_is_part_of_the_rows(known, name):
    result = decode(known, name, PROMPT, 24)
    assert 0 < result.prompt_seconds < result.seconds


def test_the_drafts_own_passes_do_not_count_and_a_wrong_draft_costs_passes_but_not_the_text(known, tmp_path):
    save_draft(tmp_path / "draft", counting(tiny_llama, step=2))
    known.adapted.eos_token_ids = set()
    (result,) = build(known.adapted, "assisted", 9, peers=tmp_path).run([PROMPT])
    assert (result.token_ids, result.calls) == (list(range(7, 16)), 9)
    assert result.accepted == [8]


def test_no_hook_stays_behind(known):
    decoder = known.adapted.hooks.backbone.decoder
    before = len(decoder._forward_hooks)
    decode(known, "prompt_lookup", PROMPT, 3)
    assert len(decoder._forward_hooks) == before


# -- random models ------------------------------------------------------------------------------------------------


def test_all_give_plains_tokens_whatever_the_draft(architecture, tmp_path):
    adapted, prompts = fake_adapted(TINY[architecture]), random_prompts(4)
    # Unlike the base by its LoRA and its last layer, so that it is sometimes right.
    save_draft(tmp_path / "draft", TINY[architecture](num_hidden_layers=3))
    free = ids(build(adapted, "plain", 16).run(prompts))
    methods = {name: build(adapted, name, 16, peers=tmp_path) for name in DRAFTING}
    for name, method in methods.items():
        results = method.run(prompts)
        # A pass that accepts nothing gives one token; some gave more.
        assert sum(result.calls for result in results) < sum(map(len, free)), name
    for eos in [set(), *({token} for token in free[0][::5])]:
        adapted.eos_token_ids = eos
        expected = [until(row, eos) for row in free]
        for method in methods.values():
            results = method.run(prompts)
            assert ids(results) == expected
            assert all(result.calls <= len(result.token_ids) for result in results)


def test_the_schedule_is_transformers_default_in_every_run(tmp_path):
    # Otherwise the folder's own would hold, and transformers leaves the state of this one behind for the next run.
    draft = counting(tiny_llama)
    draft.generation_config.num_assistant_tokens_schedule = "heuristic"
    save_draft(tmp_path / "draft", draft)
    adapted = fake_adapted(lambda: counting(tiny_llama), scale=0.0)
    method = build(adapted, "assisted", 49, peers=tmp_path)
    assert [method.run([PROMPT])[0].calls for _ in range(2)] == [3, 3]  # 21, 21 and 7 tokens


@pytest.mark.parametrize("name", DRAFTING)
def test_the_models_own_generation_settings_are_ignored(name, tmp_path):
    adapted, prompts = fake_adapted(), random_prompts(2)
    expected = ids(build(adapted, "plain").run(prompts))
    draft = tiny_llama(num_hidden_layers=3)
    for settings in (adapted.model.generation_config, draft.generation_config):
        settings.repetition_penalty = 5.0
        settings.eos_token_id = expected[0][2]
        settings.no_repeat_ngram_size = 1
    save_draft(tmp_path / "draft", draft)
    assert ids(build(adapted, name, peers=tmp_path).run(prompts)) == expected


# -- refusals -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*DRAFTING, "llama_cpp"])
def test_batches_are_refused(name, tmp_path):
    with pytest.raises(ConfigError, match=rf"batch size 2: {name} decodes one prompt at a time.*--batch-size 1"):
        build(fake_adapted(), name, batch_size=2, peers=tmp_path)


@pytest.mark.parametrize("length", [0, 16])
def test_a_prompt_without_tokens_or_room_is_an_error(length):
    with pytest.raises(GenerationError, match=rf"a prompt has {length} tokens"):
        build(fake_adapted(max_position_embeddings=16), "prompt_lookup").run([[5] * length])


def test_lookup_with_learned_positions_keeps_away_from_the_contexts_end():
    adapted = fake_adapted(lambda **changes: counting(tiny_opt, **changes), scale=0.0, max_position_embeddings=40)
    method, plain = (build(adapted, name, 14) for name in ("prompt_lookup", "plain"))
    assert ids(method.run([PROMPT])) == ids(plain.run([PROMPT]))  # 18 + 14 - 2 + 10 = 40
    with pytest.raises(GenerationError, match=r"19 tokens and 14 new.*place 41.*positions for 40.*--max-new-tokens"):
        method.run([[5, *PROMPT]])
    rotary = fake_adapted(max_position_embeddings=20)
    assert ids(build(rotary, "prompt_lookup").run([PROMPT])) == ids(build(rotary, "plain").run([PROMPT]))


def test_a_missing_draft_names_the_command_that_makes_it(tmp_path):
    with pytest.raises(
        ConfigError,
        match=r"'tiny' has no draft model.*ssft train peers/draft_sql data.train=<rows that tiny .* --output "
        r"outputs/peers/tiny/draft`, then give --peers outputs/peers$",
    ):
        build(fake_adapted(), "assisted")
    with pytest.raises(ConfigError, match=r"no draft model.*draft holds none; leave assisted out.*--output \S+/draft`"):
        build(fake_adapted(), "assisted", peers=tmp_path)
    adapted = fake_adapted()
    adapted.active.name = "sql"
    with pytest.raises(ConfigError, match=r"`ssft train peers/draft_sql --output \S+/draft`"):
        build(adapted, "assisted", peers=tmp_path)


def test_missing_heads_are_told_the_same_way():
    with pytest.raises(
        ConfigError,
        match=r"'tiny' has no Medusa heads.*leave medusa out.*`ssft train peers/medusa_sql adapter=<folder of "
        r"tiny> data.train=\S+.* --output outputs/peers/tiny/medusa`, then give --peers outputs/peers$",
    ):
        build(fake_adapted(), "medusa")


def test_a_draft_of_another_base_or_a_damaged_one_is_refused(tmp_path, monkeypatch):
    folder = save_draft(tmp_path / "draft", tiny_llama(num_hidden_layers=1, vocab_size=VOCABULARY + 1))
    with pytest.raises(ConfigError, match=r"draft's vocab_size is 62, the base's 61; train"):
        build(fake_adapted(), "assisted", peers=tmp_path)
    save_draft(folder, tiny_llama(num_hidden_layers=1, max_position_embeddings=64))
    with pytest.raises(ConfigError, match=r"draft's max_position_embeddings is 64, the base's 4096; train"):
        build(fake_adapted(), "assisted", peers=tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(FakeTokenizer, "get_vocab", lambda _self: {"a": 0})
        with pytest.raises(
            ConfigError, match=r"draft's tokenizer is not the base's.*`ssft train .*/draft` with --force"
        ):
            build(fake_adapted(), "assisted", peers=tmp_path)
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(BaseModelError, match=r"model.safetensors is truncated or damaged"):
        build(fake_adapted(), "assisted", peers=tmp_path)


def test_the_drafts_parameters_and_bytes_are_extra(tmp_path):
    draft = tiny_llama(num_hidden_layers=1)
    folder = save_draft(tmp_path / "draft", draft)
    method = build(fake_adapted(), "assisted", peers=tmp_path)
    assert method.extra_parameters == draft.num_parameters()
    assert method.extra_bytes == (folder / "model.safetensors").stat().st_size
    assert method.training == {}
    facts = {"train_rows": 2000, "data": {"train": {"name": "rows.jsonl"}}, "device": "cpu", "train_seconds": 7.5}
    (folder / "provenance.json").write_text(json.dumps({**facts, "steps": 25}))
    method = build(fake_adapted(), "assisted", peers=tmp_path)
    assert method.training == {"data": "rows.jsonl", "rows": 2000, "steps": 25, "seconds": 7.5, "device": "cpu"}
    lookup = build(fake_adapted(), "prompt_lookup")
    assert (lookup.extra_parameters, lookup.extra_bytes) == (0, 0)
