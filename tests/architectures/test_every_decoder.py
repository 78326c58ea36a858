"""Every other decoder of transformers that a small config can be made for: it decodes identically, or is refused.

SSFT_EVERY_DECODER=1 python -m pytest tests/architectures/test_every_decoder.py -rxs
"""

import os

import pytest
import torch
from conftest import LAYERS
from oracle import ALL, TOKENS, TOP_K, Oracle, adapted, decode
from tiny_architectures import PLAIN, randomised
from transformers import CONFIG_MAPPING, AutoModelForCausalLM
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from ssft.base.families import TESTED
from ssft.decoding.config import TreeConfig
from ssft.runtime.selfcheck import self_check

if "SSFT_EVERY_DECODER" not in os.environ:
    pytest.skip("SSFT_EVERY_DECODER=1 tries some 140 model types, for minutes", allow_module_level=True)
OTHERS = sorted(set(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES) - set(TESTED))
MOST = 5_000_000
"""Parameters of a model that is still small."""
EXPERTS = {
    "num_experts": 4,
    "num_local_experts": 4,
    "n_routed_experts": 4,
    "moe_intermediate_size": 48,
    "num_experts_per_tok": 2,
    "first_k_dense_replace": 1,
    "n_group": 1,
    "topk_group": 1,
}
GPT = {"n_embd": 64, "n_layer": LAYERS, "n_head": 4, "n_positions": 512, "n_inner": 96, "rotary_dim": 8}
SIZES = [{}, {"head_dim": 16}, EXPERTS, {**EXPERTS, "head_dim": 16}, GPT]


def small(name):
    """A model of the type by the first of `SIZES` that makes one which runs; None if none does."""
    for sizes in SIZES:
        try:
            config = CONFIG_MAPPING[name](**{**PLAIN, **sizes})
            with torch.device("meta"):
                count = sum(p.numel() for p in AutoModelForCausalLM.from_config(config).parameters())
            if count > MOST:
                continue
            torch.manual_seed(0)
            model = randomised(AutoModelForCausalLM.from_config(config))
            with torch.no_grad():
                model(input_ids=torch.tensor([[5, 6, 7]]))
        except Exception:  # configs of other people's models fail in every way there is; then the next sizes are tried
            continue
        return model
    return None


@pytest.mark.parametrize("name", OTHERS)
@pytest.mark.filterwarnings("ignore")
def test_it_decodes_identically_or_is_refused_with_a_reason(name):
    model = small(name)
    if model is None:
        pytest.skip("no small config of it runs")
    report = self_check(model)
    if not report.supported:
        assert len(report.reason) > 20
        pytest.xfail(report.reason)
    fits = "q_proj" in report.checks[-1].detail
    subject = adapted(model, targets=["q_proj", "k_proj", "v_proj", "o_proj"] if fits else "all-linear")
    for drafts in ("never", "sometimes", "always"):
        results = decode(Oracle(subject, TreeConfig("best_first", 16, TOP_K), drafts, ALL), ALL)
        assert [result.token_ids for result in results] == [text[:TOKENS] for text in subject.texts]
