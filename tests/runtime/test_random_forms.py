"""Two hundred random settings: forms, penalties, limits, draws, over mixed adapters, with drafts of every quality."""

import random

import pytest
from byte_models import ADAPTERS, FORMS, PROMPTS, Oracle, model_of
from random_sampling import SETTINGS

TOKENS = 12
DRAFTS = ["streams", "never", "sometimes", "always"]
DRAWING = ("temperature", "top_k", "top_p", "min_p", "typical_p")
FORBIDDING = ("bad_words_ids", "no_repeat_ngram_size", "min_new_tokens")
"""Settings that may leave nothing to come where a form leaves little."""


def random_row(rng):
    """Settings of one row: greedy or drawn, with a form or without."""
    greedy, form = rng.random() < 0.25, rng.choice([*FORMS, None, None, None])
    unfit = {*(DRAWING if greedy else ()), *(FORBIDDING if form else ()), "bad_words_ids"}
    names = sorted({*SETTINGS} - unfit)
    row = {name: rng.choice(SETTINGS[name]) for name in rng.sample(names, rng.randint(0, min(4, len(names))))}
    if "min_new_tokens" in row:
        row["min_new_tokens"] = min(row["min_new_tokens"], TOKENS)
    return row | ({form: FORMS[form]} if form else {}) | ({} if greedy else {"seed": rng.randrange(2**63)})


def together(rows):
    """Settings of each row as lists over all of them."""
    return {name: [row.get(name) for row in rows] for name in sorted({name for row in rows for name in row})}


@pytest.mark.parametrize("case", range(50))
def test_no_draft_neighbour_or_batch_changes_a_token(case):
    rng, drafts = random.Random(case), DRAFTS[case // 2 % 4]
    model = model_of(["llama", "mistral"][case % 2])
    order = rng.sample(range(4), 4)
    prompts, adapters = [model.encode(PROMPTS[i]) for i in order], [ADAPTERS[i] for i in order]
    rows, common = [random_row(rng) for _ in order], {"max_new_tokens": TOKENS}
    plain = [
        model.complete([prompt], adapter, speculate=False, **row, **common)[0].token_ids
        for prompt, adapter, row in zip(prompts, adapters, rows, strict=True)
    ]
    texts = {tuple(prompt): text for prompt, text in zip(prompts, plain, strict=True)}
    how = {} if drafts == "streams" else {"drafter": Oracle(drafts, texts)}
    batch = model.complete(prompts, adapters, **together(rows), **common, **how)
    assert [result.token_ids for result in batch] == plain
    one = case % 4
    (alone,) = model.complete([prompts[one]], adapters[one], **rows[one], **common, **how)
    assert alone.token_ids == plain[one]
    if drafts == "always":
        assert all(result.calls < max(len(result.token_ids), 2) for result in batch)
