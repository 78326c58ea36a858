"""A server's view: several threads, one model, every request with its own adapter."""

import random
import threading
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import pytest
from shelf import OWN, PLAIN, SHELF, shared_shelf

from ssft.decoding.step import Step
from ssft.runtime.model import MultiAdapterModel

NAMES = [*SHELF, OWN, PLAIN, None]
TOKENS = 12


@pytest.fixture(scope="module")
def shelf():
    return shared_shelf("llama")


def load(shelf, **settings):
    model = MultiAdapterModel.from_pretrained(shelf.base, dtype="float32", device_map="cpu", **settings)
    for path in shelf.paths.values():
        model.load_adapter(path)
    return model


def requests(count, seed):
    """Calls of one to three rows with adapters of their own."""
    draw = random.Random(seed)
    calls = []
    for _ in range(count):
        rows = draw.randint(1, 3)
        prompts = [[draw.randrange(2, 97) for _ in range(draw.randint(2, 9))] for _ in range(rows)]
        calls.append((prompts, [draw.choice(NAMES) for _ in range(rows)]))
    return calls


def serve(model, call):
    prompts, names = call
    results = model.generate(prompts, names, max_new_tokens=TOKENS, ignore_eos=True, return_dict=True)
    return [(r["token_ids"], r["calls"], r["accepted"]) for r in results]


def test_threads_get_what_they_would_get_alone(shelf):
    model = load(shelf)
    calls = requests(12, 1)
    alone = [serve(model, call) for call in calls]
    for call, results in zip(calls, alone, strict=True):
        for prompt, name, (token_ids, *_) in zip(*call, results, strict=True):
            assert token_ids == shelf.reference(prompt, name, TOKENS)
    with ThreadPoolExecutor(6) as pool:
        assert list(pool.map(lambda call: serve(model, call), calls)) == alone


def test_requests_of_two_threads_interleave_by_pass(shelf, monkeypatch):
    """Neither waits for the other's whole text."""
    model = load(shelf)
    log = []
    real = Step.trees
    monkeypatch.setattr(Step, "trees", lambda *a: (log.append(threading.get_ident()), real(*a))[1])
    start = threading.Barrier(2)

    def work(name):
        start.wait()
        model.generate([5, 6, 7], name, max_new_tokens=30, ignore_eos=True, speculate=False)

    threads = [threading.Thread(target=work, args=(name,)) for name in ("deep", "many")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    changes = sum(a != b for a, b in pairwise(log))
    assert changes > 20, "one thread ran to its end before the other got a turn"


def test_loading_deleting_and_evicting_beside_running_requests(shelf):
    model = load(shelf)
    most = max(adapter.nbytes for adapter in model.adapters().values())
    model = load(shelf, max_adapter_bytes=4 * most)
    calls = requests(12, 2)
    expected = [[shelf.reference(prompt, name, TOKENS) for prompt, name in zip(*call, strict=True)] for call in calls]
    done = threading.Event()
    churned = []

    def churn():
        while not done.is_set():
            model.load_adapter(shelf.paths["deep"], "extra")
            model.generate([3, 4, 5], "extra", max_new_tokens=2)
            model.delete_adapter("extra")
            churned.append(model.bank.resident_bytes())

    churner = threading.Thread(target=churn)
    churner.start()
    try:
        with ThreadPoolExecutor(4) as pool:
            found = list(pool.map(lambda call: [ids for ids, *_ in serve(model, call)], calls))
    finally:
        done.set()
        churner.join()
    assert found == expected
    assert len(churned) > 1
    assert max(churned) <= model.bank.max_bytes


def test_a_failing_request_does_not_disturb_its_neighbours(shelf):
    model = load(shelf)
    calls = requests(8, 3)
    expected = [[shelf.reference(p, n, TOKENS) for p, n in zip(*call, strict=True)] for call in calls]

    def fail(input_ids, scores):
        raise RuntimeError("failed on purpose")

    def broken(_):
        with pytest.raises(RuntimeError, match="failed on purpose"):
            model.generate([[3, 4], [5, 6]], ["deep", None], logits_processor=[None, [fail]])

    with ThreadPoolExecutor(4) as pool:
        failures = [pool.submit(broken, i) for i in range(8)]
        found = list(pool.map(lambda call: [ids for ids, *_ in serve(model, call)], calls))
        for failure in failures:
            failure.result()
    assert found == expected
    assert all(adapter.users == 0 for adapter in model.adapters().values())
