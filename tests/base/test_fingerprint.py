"""The fingerprint of a base tells its shape and tokenizer, however and from wherever it was loaded."""

import os

from word_base import save_word_base

from ssft.base import load as bases
from ssft.base.fingerprint import base_fingerprint


def test_the_fingerprint_ignores_dtype_quantization_and_place(tiny_base, tmp_path):
    copy = tmp_path / "elsewhere" / "tiny"
    copy.parent.mkdir()
    os.symlink(tiny_base, copy)
    prints = [
        base_fingerprint(*bases.load_base(name, **options), name)
        for name, options in [
            (tiny_base, {"dtype": "float32"}),
            (tiny_base, {"dtype": "bfloat16", "attn_implementation": "eager"}),
            (str(copy), {"dtype": "float32", "quantization": "4bit"}),
        ]
    ]
    assert prints[0] == prints[1] == prints[2]
    assert prints[0]["id"] == "tiny"
    assert prints[0]["architecture"] == "LlamaForCausalLM"


def test_the_fingerprint_sees_another_tokenizer_and_another_config(tiny_base, tmp_path):
    model, tokenizer = bases.load_base(tiny_base, dtype="float32")
    first = base_fingerprint(model, tokenizer, "owner/name")
    assert first["id"] == "owner/name"
    other = save_word_base(tmp_path / "other", extra_token="<new>")
    _, tokenizer_with_token = bases.load_base(other, dtype="float32")
    second = base_fingerprint(model, tokenizer_with_token, "owner/name")
    assert second["tokenizer_sha256"] != first["tokenizer_sha256"]
    assert second["config_sha256"] == first["config_sha256"]
    model.config.rope_parameters = {"rope_type": "default", "rope_theta": 5.0}
    assert base_fingerprint(model, tokenizer, "owner/name")["config_sha256"] != first["config_sha256"]
