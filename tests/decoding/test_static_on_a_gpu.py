"""Passes that are CUDA graphs say what the ordinary step says."""

import logging

import pytest
import tiny_architectures
import torch
from conftest import random_ids
from decoder import Decoder
from oracle import ALL, TOKENS, adapted, decode
from shelf import OWN, PLAIN, SHELF, shared_shelf

from ssft.decoding.graphs import CudaGraphs
from ssft.decoding.static import StaticStep, step_for
from ssft.decoding.step import Step
from ssft.runtime.model import MultiAdapterModel

NEEDS_GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU: graphs are CUDA's")


def on_gpu(**settings):
    shelf = shared_shelf("llama")
    model = MultiAdapterModel.from_pretrained(shelf.base, device_map="cuda", **settings)
    for name in (*SHELF, OWN, PLAIN):
        model.load_adapter(shelf.paths[name])
    assert isinstance(model.step, StaticStep)
    return model


def streamed(model, names, tokens=24, **more):
    prompts = [random_ids(1, 4 + 3 * place, seed=place)[0].tolist() for place in range(len(names))]
    settings = {"adapter": names, "max_new_tokens": tokens, "ignore_eos": True, "return_dict": True}
    return [answer["token_ids"] for answer in model.generate(prompts, **settings, **more)]


BATCHES = [["deep"], [None], ["many"] * 3, ["deep", "many", None], ["lossless", OWN, "small", PLAIN, "projected"]]


@NEEDS_GPU
@pytest.mark.parametrize("names", BATCHES, ids=str)
def test_captured_passes_say_what_the_ordinary_step_says(names):
    model = on_gpu(dtype="float32")
    first, second = streamed(model, names), streamed(model, names)
    plain = streamed(model, names, speculate=False)
    assert model.step.graphs
    assert model.step.capture is not None
    model.step = Step(model.hooks)
    assert first == second == plain == streamed(model, names) == streamed(model, names, speculate=False)


@NEEDS_GPU
@pytest.mark.parametrize("settings", [{"dtype": "bfloat16"}, {"dtype": "bfloat16", "quantization": "4bit"}], ids=str)
def test_lower_precision_is_captured_and_says_the_same_twice(settings, caplog):
    model = on_gpu(**settings)
    with caplog.at_level(logging.WARNING):
        texts = [streamed(model, ["deep", "many"]) for _ in range(3)]
    assert "cannot be captured" not in caplog.text
    assert model.step.graphs
    # The first call ran some passes operator by operator, in the same shapes and with the same kernels.
    assert texts[0] == texts[1] == texts[2]


@NEEDS_GPU
def test_captured_graphs_go_with_the_adapter_that_leaves():
    model = on_gpu(dtype="float32")
    expected = streamed(model, ["deep"])
    of_deep = model.step.graphs
    streamed(model, [None])
    of_both = model.step.graphs
    model.delete_adapter("deep")
    assert model.step.graphs == of_both - of_deep < of_both
    model.load_adapter(shared_shelf("llama").paths["deep"])
    assert streamed(model, ["deep"]) == streamed(model, ["deep"]) == expected


@NEEDS_GPU
def test_a_pass_that_reads_the_host_is_said_and_not_captured(caplog):
    subject = adapted(tiny_architectures.tiny("llama-dynamic"))
    subject.model.cuda()
    decoder = Decoder(subject.hooks, None)
    decoder.step = step_for(subject.hooks)
    with caplog.at_level(logging.WARNING):
        results = decode(decoder, ALL)
    assert "take longer without: aten._local_scalar_dense" in caplog.text
    assert [result.token_ids for result in results] == [text[:TOKENS] for text in subject.texts]


@NEEDS_GPU
def test_a_capture_that_fails_leaves_the_stream_as_it_was():
    capture = CudaGraphs(torch.device("cuda", torch.cuda.current_device()))
    before, x, runs = torch.cuda.current_stream(), torch.ones(2, device="cuda"), []

    def forward():
        runs.append(1)
        if len(runs) == 2:
            torch.cuda.synchronize()
        return x * 2, None

    with pytest.raises(RuntimeError):
        capture(forward)
    assert len(runs) == 2
    assert torch.cuda.current_stream() == before
    assert (x * 3).tolist() == [3, 3]
