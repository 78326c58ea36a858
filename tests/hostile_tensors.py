"""Adapter folders whose tensors are wrong in shape, type or value, or are larger than a base can need.

Every entry is (function that spoils a good bundle, expression that the error matches).
"""

import torch
from safetensors.torch import save_file
from spoiling import (
    LORA,
    SETTINGS,
    STREAMS,
    VOCABULARY,
    and_then,
    enlarged,
    entry,
    half,
    header,
    holds,
    section,
    settings,
    tensors,
)

KEY = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"


def first(function):
    """Change the first tensor of a file."""
    return lambda held: {**held, sorted(held)[0]: function(held[sorted(held)[0]])}


def element(value):
    """One element alone is changed."""

    def change(tensor):
        tensor = tensor.clone()
        tensor.view(-1)[tensor.numel() // 2] = value
        return tensor

    return first(change)


def swapped_shapes(held):
    """Two tensors change places: every number is there, the shapes are another module's."""
    up = next(k for k in sorted(held) if "down_proj.lora_B" in k)
    down = next(k for k in sorted(held) if "q_proj.lora_A" in k)
    return {**held, up: held[down].clone(), down: held[up].clone()}


def vocabulary(*ids, key="ids", dtype=torch.int32):
    """A bundle of format 3 with these token ids."""

    def damage(folder):
        settings(format_version=3)(folder)
        save_file({key: torch.tensor(ids).to(dtype)}, folder / VOCABULARY)

    return damage


def gigabytes_of_lora(folder):
    """A whole, consistent file whose one tensor takes 8 GiB (of which the disk holds nothing)."""
    entry([6, 2**31 // 6], 2**31 // 6 * 24, key=KEY, file=LORA)(folder)


def gigabytes_of_streams(folder):
    """8 GiB that a config asks for and a file has; the base is what they do not fit."""
    section("streams", projection_rank=2**16)(folder)
    entry([2**16, 2**15], 2**33, key="projection_down")(folder)


def width_of_the_rank(folder):
    """20 MB of file ask for modules of 2 · 10^7 · 64 numbers, which are 10 GB."""
    section("streams", projection_rank=10**7)(folder)
    entry([10**7, 1], 2 * 10**7, dtype="F16")(folder)


BAD_TENSORS = {
    "swapped shapes": (tensors(LORA, swapped_shapes), r"has shape \(\d+, \d+\), the base needs"),
    "transposed tensor": (tensors(LORA, first(lambda t: t.T.contiguous())), "has shape .* the base needs"),
    "streams of another width": (tensors(STREAMS, first(lambda t: t[:, :32].clone())), "holds .* the base need"),
    "one tensor short": (tensors(LORA, lambda h: dict(sorted(h.items())[1:])), "alone; the file is incomplete"),
    "one tensor more": (
        tensors(LORA, lambda h: {**h, f"{KEY}.bias": torch.ones(2)}),
        "is no weight of a LoRA that decodes here: expected lora_A and lora_B of linear layers only",
    ),
    "name with a path": (
        tensors(LORA, lambda h: {**h, "base_model.model...../../etc.lora_A.weight": torch.ones(6, 64)}),
        "names the module .*, which the base does not have",
    ),
    "name of an attribute": (
        tensors(LORA, lambda h: {**h, "base_model.model.__class__.__init__.lora_A.weight": torch.ones(6, 64)}),
        "names the module __class__.__init__, which the base does not have",
    ),
    "NaN": (tensors(LORA, first(lambda t: t * float("nan"))), f"{LORA}: .* holds NaN or infinite values"),
    "one NaN": (tensors(LORA, element(float("nan"))), f"{LORA}: .* holds NaN or infinite values"),
    "one infinity": (tensors(STREAMS, element(float("-inf"))), f"{STREAMS}: .* holds NaN or infinite values"),
    "LoRA beyond float32": (
        tensors(LORA, lambda h: {k: v.double() * 1e300 for k, v in h.items()}),
        "holds values of torch.float64 beyond the range of torch.float32",
    ),
    "streams beyond float32": (tensors(STREAMS, first(lambda t: t.double() * 1e300)), "beyond the range of float32"),
    "integers": (tensors(LORA, first(lambda t: t.int())), "has dtype I32, expected a floating-point type"),
    "booleans": (tensors(STREAMS, first(lambda t: t > 0)), "has dtype BOOL, expected a floating-point type"),
    "eight-bit floats": (entry([2, 64], 128, "F8_E4M3"), "has dtype F8_E4M3, expected a"),
    "four-bit floats": (entry([4, 64], 128, "F4"), "has dtype F4, expected a"),
}

BAD_VOCABULARIES = {
    "ids unsorted": (vocabulary(3, 9, 7), f"{VOCABULARY}: holds 9 before 7; token ids stand there from the least"),
    "an id twice": (vocabulary(3, 7, 7), f"{VOCABULARY}: holds 7 before 7; .* each once"),
    "an id below 0": (vocabulary(-1, 7), f"{VOCABULARY}: holds the token id -1; .* none below 0"),
    "an id beyond the base": (vocabulary(3, 98), f"{VOCABULARY}: holds the token id 98, but the base has 98 token ids"),
    "an id beyond 32 bits": (vocabulary(3, 2**40, dtype=torch.int64), f"the token id {2**40}, but the base has 98"),
    "no list of ids": (vocabulary([3, 7]), rf"{VOCABULARY}: holds .*ids.*\(1, 2\).*, expected the list 'ids'"),
    "ids by another name": (vocabulary(3, 7, key="tokens"), f"{VOCABULARY}: holds .*tokens.*, expected the list 'ids'"),
    "ids as numbers": (vocabulary(3, 7, dtype=torch.float32), f"{VOCABULARY}: ids has dtype F32, expected an integer"),
    "no id": (
        and_then(vocabulary(3), entry([0], 0, "I32", key="ids", file=VOCABULARY)),
        r"ids has shape \[0\] and so no element",
    ),
    "half a vocabulary": (and_then(vocabulary(3, 7), half(VOCABULARY)), f"{VOCABULARY}: no valid safetensors file"),
    "a vocabulary that hangs": (
        and_then(vocabulary(3, 7), enlarged(VOCABULARY, 2**30)),
        f"{VOCABULARY}: 1,073,741,824 bytes, but no adapter",
    ),
    "own streams of a shared adapter": (
        and_then(vocabulary(3, 7), holds("stream_lora.safetensors", b"")),
        "format_version 3 with streams.mode='shared'; streams with a LoRA",
    ),
}

BAD_SIZES = {
    "header beyond the file": (
        holds(STREAMS, (2**63).to_bytes(8, "little") + b"{}"),
        f"{STREAMS}: no valid safetensors file .*header too large",
    ),
    "header of 50 MB": (
        header(LORA, " " * 50_000_000 + "{}"),
        f"{LORA}: no valid safetensors file .header too large: 50,000,002 bytes",
    ),
    "header of a million names": (
        header(LORA, '{"__metadata__":{' + ",".join(f'"{i}":""' for i in range(1_000_001)) + "}}"),
        f"{LORA}: some 1,000,00. values, but no adapter needs",
    ),
    "header without JSON": (header(STREAMS, "[" * 100), f"{STREAMS}: no valid safetensors file"),
    "name twice in the header": (
        header(
            STREAMS,
            '{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}',
            4,
        ),
        f"{STREAMS}: not readable as JSON .key 'a' stands twice",
    ),
    "name for a terminal": (
        entry([2, 64], 512, key="\x1b[2J\x1b]0;"),
        r"a tensor's name is '\\x1b\[2J.*expected printable ones",
    ),
    "name of a megabyte": (entry([2, 64], 512, key="k" * 10**6), "1000000 characters, expected printable ones"),
    "bytes beyond the file": (entry([3, 64], 768, held=96), "no valid safetensors file"),
    "terabytes beyond the file": (entry([2**38], 2**40, held=768), "no valid safetensors file"),
    "shape beyond the bytes": (entry([2**40, 64], 768), "no valid safetensors file"),
    "shape beyond integers": (entry([2**62, 64], 768), "no valid safetensors file .*overflow"),
    "shape below zero": (entry([-1, 64], 768), "no valid safetensors file"),
    "offsets that overlap": (
        header(
            STREAMS,
            {k: {"dtype": "F32", "shape": [64], "data_offsets": [0, 256]} for k in ("a", "b")},
            256,
        ),
        "no valid safetensors file",
    ),
    "bytes that belong to nothing": (entry([64], 256, held=4096), "no valid safetensors file"),
    "no element": (entry([0, 64], 0), r"stream_embeddings has shape \[0, 64\] and so no element"),
    "a terabyte of streams": (enlarged(STREAMS, 2**40), f"{STREAMS}: 1,099,511,627,776 bytes, but no adapter"),
    "a terabyte of LoRA": (enlarged(LORA, 2**40), f"{LORA}: 1,099,511,627,776 bytes, but no adapter needs"),
    "gigabytes of LoRA": (gigabytes_of_lora, r"lora_A\.weight has shape \(6, 357913941\), the base needs \(6, 64\)"),
    "gigabytes of streams": (gigabytes_of_streams, f"{STREAMS}: holds .*, but {SETTINGS} and the base need"),
    "a rank that the file backs": (width_of_the_rank, f"{STREAMS}: holds .*, but {SETTINGS} and the base need"),
}
