"""Adapter folders that are damaged or mean harm: every variant spoils a good bundle, beside the error that names it.

The good bundle is `shelf.SHELF["projected"]`: γ = 2, N_s = 2, rank 6 on all linear layers of the tiny Llama, η = 3.
"""

import gzip
import io
import json
import os
import zipfile

import torch
from adapter_folders import change_json
from safetensors.torch import load_file, save_file

CONFIG, LORA = "adapter_config.json", "adapter_model.safetensors"
SETTINGS, STREAMS, PROVENANCE = "ssft_config.json", "streams.safetensors", "provenance.json"
VOCABULARY = "draft_vocabulary.safetensors"
KEY = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"


class Payload:
    """Unpickled, it writes the file `marker`."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return open, (str(self.marker), "w")


def pickled(marker):
    """Bytes of a pickle as torch.save writes it, which leaves the file `marker` where something loads it."""
    buffer = io.BytesIO()
    torch.save({"weight": Payload(marker)}, buffer)
    return buffer.getvalue()


# -- ways to spoil ----------------------------------------------------------------------------------------------


def gone(name):
    return lambda folder: (folder / name).unlink()


def holds(name, data):
    def damage(folder):
        (folder / name).write_bytes(data if isinstance(data, bytes) else data.encode())

    return damage


def half(name):
    return lambda folder: (folder / name).write_bytes(
        (folder / name).read_bytes()[: (folder / name).stat().st_size // 2]
    )


def enlarged(name, size):
    """A hole behind the content takes no disk."""
    return lambda folder: os.truncate(folder / name, size)


def lora(**changes):
    return lambda folder: change_json(folder, CONFIG, **changes)


def settings(**changes):
    return lambda folder: change_json(folder, SETTINGS, **changes)


def section(name, **changes):
    """Change fields inside a section of ssft_config.json."""

    def damage(folder):
        held = json.loads((folder / SETTINGS).read_text())[name]
        change_json(folder, SETTINGS, **{name: {**held, **changes}})

    return damage


def tensors(name, change):
    def damage(folder):
        held = load_file(folder / name) if (folder / name).exists() else {}
        save_file(change(held), folder / name)

    return damage


def vocabulary(*ids, key="ids", dtype=torch.int32):
    """A bundle of format 3 with these token ids."""

    def damage(folder):
        settings(format_version=3)(folder)
        save_file({key: torch.tensor(ids).to(dtype)}, folder / VOCABULARY)

    return damage


def and_then(*steps):
    def damage(folder):
        for step in steps:
            step(folder)

    return damage


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


def header(name, text, size=0, data=b""):
    """A safetensors file with a header of one's own and a hole of `size` bytes behind it."""

    def damage(folder):
        raw = text.encode() if isinstance(text, str) else json.dumps(text).encode()
        (folder / name).write_bytes(len(raw).to_bytes(8, "little") + raw + data)
        os.truncate(folder / name, 8 + len(raw) + max(size, len(data)))

    return damage


def entry(shape, size, dtype="F32", key="stream_embeddings", file=STREAMS, held=None):
    """One tensor of `size` bytes; `held`: how many the file really has."""
    return header(
        file, {key: {"dtype": dtype, "shape": shape, "data_offsets": [0, size]}}, size if held is None else held
    )


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


def linked(name, target):
    def damage(folder):
        (folder / name).rename(folder.parent / f"elsewhere-{name}")
        (folder / name).symlink_to(target or folder.parent / f"elsewhere-{name}")

    return damage


def replaced(name, make):
    def damage(folder):
        (folder / name).unlink()
        make(folder / name)

    return damage


def bomb():
    """A zip of 64 MiB of zeros, as torch.save's own format is one."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data/0", bytes(64 * 2**20))
    return buffer.getvalue()


# -- the variants -----------------------------------------------------------------------------------------------

_FILES = {
    "no LoRA": (gone(LORA), f"{LORA}: missing"),
    "no streams": (gone(STREAMS), f"{STREAMS}: missing"),
    "no settings": (gone(SETTINGS), f"{SETTINGS}: missing"),
    "no peft settings": (gone(CONFIG), f"{CONFIG}: missing"),
    "half a LoRA": (half(LORA), f"{LORA}: no valid safetensors file .*truncated or of another kind"),
    "half the streams": (half(STREAMS), f"{STREAMS}: no valid safetensors file .*truncated or of another kind"),
    "half the settings": (half(SETTINGS), f"{SETTINGS}: not readable as JSON"),
    "empty LoRA": (holds(LORA, b""), f"{LORA}: no valid safetensors file"),
    "a zip bomb": (holds(STREAMS, bomb()), f"{STREAMS}: no valid safetensors file"),
    "a gzip bomb": (holds(LORA, gzip.compress(bytes(64 * 2**20))), f"{LORA}: no valid safetensors file"),
    "a zip bomb as JSON": (holds(CONFIG, bomb()), f"{CONFIG}: not readable as JSON"),
    "link out of the folder": (linked(LORA, None), rf"{LORA}: a link to .*elsewhere-\S+, outside the adapter folder"),
    "link that climbs out": (linked(SETTINGS, f"../elsewhere-{SETTINGS}"), "outside the adapter folder"),
    "link to the system": (linked(CONFIG, "/etc/passwd"), f"{CONFIG}: a link to /etc/passwd, outside"),
    "link to a device": (linked(STREAMS, "/dev/zero"), f"{STREAMS}: a link to /dev/zero, outside"),
    "link of the provenance": (linked(PROVENANCE, None), f"{PROVENANCE}: a link to .*, outside the adapter folder"),
    "link to itself": (replaced(LORA, lambda p: p.symlink_to(p.name)), f"{LORA}: cannot be read"),
    "link to nothing": (replaced(SETTINGS, lambda p: p.symlink_to("gone")), f"{SETTINGS}: missing"),
    "a pipe": (replaced(LORA, os.mkfifo), f"{LORA}: no regular file"),
    "a folder": (replaced(CONFIG, os.mkdir), f"{CONFIG}: no regular file"),
}

_JSON = {
    "key twice": (
        holds(SETTINGS, '{"format_version": 1, "tree": {}, "tree": {}}'),
        rf"{SETTINGS}: not readable as JSON \(key 'tree' stands twice\)",
    ),
    "key twice inside": (
        holds(CONFIG, '{"alpha_pattern": {"a": 1, "b": 2, "a": 3}}'),
        f"{CONFIG}: not readable as JSON .key 'a' stands twice",
    ),
    "key twice in the provenance": (holds(PROVENANCE, '{"a": 1, "a": 2}'), f"{PROVENANCE}: .* 'a' stands twice"),
    "nested without end": (holds(CONFIG, '{"a":' + "[" * 500_000), f"{CONFIG}: not readable as JSON"),
    "more values than memory": (
        holds(CONFIG, '{"a":[' + "[]," * 5_000_000 + "1]}"),
        "10,000,002 values, but no adapter",
    ),
    "a number of 5,000 digits": (holds(CONFIG, '{"r": 1' + "0" * 5_000 + "}"), f"{CONFIG}: not readable as JSON"),
    "no UTF-8": (holds(CONFIG, b'{"\xff": 1}'), f"{CONFIG}: not readable as JSON"),
    "a byte order mark": (holds(SETTINGS, b"\xef\xbb\xbf{}"), f"{SETTINGS}: not readable as JSON"),
    "no object": (holds(CONFIG, "[1]"), f"{CONFIG}: holds a list, expected an object"),
    "large JSON": (enlarged(SETTINGS, 2**24 + 1), f"{SETTINGS}: 16,777,217 bytes, but no"),
    "large provenance": (enlarged(PROVENANCE, 2**40), f"{PROVENANCE}: 1,099,511,627,776 bytes, but no"),
}

_SETTINGS = {
    "newer format": (settings(format_version=4), "format_version is 4, this ssft reads 1, 2 and 3; a newer bundle"),
    "half of format 3": (settings(format_version=3), f"{VOCABULARY}: missing; the folder is no complete adapter"),
    "a stray vocabulary": (
        tensors(VOCABULARY, lambda _: {"ids": torch.arange(3)}),
        f"{VOCABULARY}: .* has format_version 1, in which streams have no draft vocabulary; one of the two files",
    ),
    "half of format 2": (
        settings(format_version=2),
        "format_version 2 with streams.mode='shared'; streams with a LoRA",
    ),
    "a stray LoRA": (
        holds("stream_lora.safetensors", b""),
        "stream_lora.safetensors: .* has format_version 1, in which",
    ),
    "format true": (settings(format_version=True), "format_version is True"),
    "format of text": (settings(format_version="1"), "format_version is '1'"),
    "format without": (settings(format_version=None), "format_version is None"),
    "no tree": (settings(tree=None), "'tree' is missing or no object"),
    "streams as a list": (settings(streams=[2, 2]), "'streams' is missing or no object"),
    "unknown field": (section("tree", colour=1), "tree.colour is unknown to this version"),
    "unknown field for a terminal": (section("tree", **{"\x1b[2J": 1}), r"tree\.'\\x1b\[2J' is unknown"),
    "text for a number": (section("streams", num_streams="2"), "streams.num_streams='2', expected int"),
    "true for a number": (section("streams", num_streams=True), "streams.num_streams=True, expected int"),
    "number for text": (section("streams", identifier=1), "streams.identifier=1, expected str"),
    "streams out of range": (section("streams", num_streams=10**12), "num_streams=1000000000000: γ must lie between"),
    "layers out of range": (section("streams", num_msa_layers=10**12), "the base has 4 layers"),
    "no such identifier": (section("streams", identifier="x" * 20), "expected one of embedding, rotation"),
    "no such mode": (section("streams", mode="remote"), "mode='remote': expected one of shared, lossless"),
    "tree of a billion nodes": (section("tree", max_nodes=10**9), "max_nodes=1000000000: must lie between"),
    "no such tree": (section("tree", kind="python:os.system"), "tree.kind='python:os.system'"),
    "another rank of f": (
        section("streams", projection_rank=10**12),
        f"{STREAMS}: no tensor has the side projection_rank=1000000000000",
    ),
    "base of text": (settings(base="base"), "'base' must hold the strings id, architecture"),
    "base without hash": (settings(base={"id": "x"}), "'base' must hold the strings"),
    "base with a number": (section("base", config_sha256=1), "'base' must hold the strings"),
    "base for a terminal": (
        section("base", id="\x1b[2Jx; rm"),
        r"base\.id='\\x1b\[2Jx; rm', 9 characters; expected a string of at most 256 printable",
    ),
    "base of a megabyte": (section("base", id="x" * 10**6), r"base\.id='x+, 1,000,000 characters; expected"),
    "architecture for a terminal": (section("base", architecture="\x1b[2J"), r"base\.architecture='\\x1b\[2J', 4 char"),
    "tokenizer of a megabyte": (section("base", tokenizer_sha256="0" * 10**6), r"tokenizer_sha256='0+, 1,000,000 char"),
    "base with a line": (section("base", config_sha256="0\n0"), r"config_sha256='0\\n0', 3 characters"),
    "identifier of a megabyte": (
        section("streams", identifier="x" * 10**6),
        r"identifier='x{59}: expected one of embedding, rotation",
    ),
    "mode for a terminal": (
        section("streams", mode="\x1b[2J" * 10**5),
        r"mode='(\\x1b\[2J){8}\S{0,7}: expected one of",
    ),
    "tree of a megabyte": (section("tree", kind="x" * 10**6), r"tree\.kind='x{59}: expected"),
    "another base": (section("base", config_sha256="0" * 64), "made for base 'base', whose model shape"),
    "another tokenizer": (section("base", tokenizer_sha256="0" * 64), "made for base 'base', whose tokenizer"),
}

_LORA = {
    "not a LoRA": (lora(peft_type="IA3"), "peft_type is 'IA3'; only LoRA adapters decode"),
    "type of a list": (lora(peft_type=["LORA"]), r"peft_type is \['LORA'\]"),
    "DoRA": (lora(use_dora=True), "use_dora=True .*DoRA"),
    "a module to import": (lora(megatron_config={}, megatron_core="this"), "megatron_config={} cannot decode"),
    "layers a billion times": (lora(layer_replication=[[0, 10**9]]), "layer_replication="),
    "base path for a terminal": (
        lora(base_model_name_or_path="\x1b[2J"),
        rf"{CONFIG}: base_model_name_or_path='\\x1b\[2J', 4 characters; expected a string",
    ),
    "base path of a megabyte": (
        lora(base_model_name_or_path="x" * 10**6),
        "base_model_name_or_path='x+, 1,000,000 characters",
    ),
    "base path of a list": (lora(base_model_name_or_path=["x"]), r"base_model_name_or_path=\['x'\]; expected a string"),
    "rank zero": (lora(r=0), "r=0, expected a positive integer"),
    "rank below zero": (lora(r=-4), "r=-4, expected a positive integer"),
    "rank true": (lora(r=True), "r=True, expected a positive integer"),
    "rank text": (lora(r="4"), "r='4', expected a positive integer"),
    "rank missing": (lora(r=None), "r=None, expected a positive integer"),
    "rank of another adapter": (lora(r=10**12), r"the base needs \(1000000000000, \d+\) at the rank 1000000000000"),
    "alpha text": (lora(lora_alpha="8"), "lora_alpha='8', expected a finite number"),
    "alpha true": (lora(lora_alpha=True), "lora_alpha=True, expected a finite number"),
    "alpha NaN": (lora(lora_alpha=float("nan")), "lora_alpha=nan, expected a finite number"),
    "alpha infinite": (lora(lora_alpha=float("inf")), "lora_alpha=inf, expected a finite number"),
    "alpha beyond float32": (lora(lora_alpha=1e39), r"lora_alpha=1e\+39, expected a finite number"),
    "alpha beyond floats": (lora(lora_alpha=10**400), r"lora_alpha=10+\.\.\., expected a finite number"),
    "rslora text": (lora(use_rslora="no"), "use_rslora='no', expected true or false"),
    "rank pattern list": (lora(rank_pattern=[4]), r"rank_pattern=\[4\], expected dict\[str, a positive integer\]"),
    "rank pattern zero": (lora(rank_pattern={"q_proj": 0}), r"rank_pattern\['q_proj'\]=0, expected a positive"),
    "alpha pattern text": (lora(alpha_pattern={"q": "8"}), r"alpha_pattern\['q'\]='8', expected a finite number"),
    "no expression": (lora(rank_pattern={"(": 4}), r"rank_pattern='\(' is no regular expression"),
    "no expression in place": (lora(alpha_pattern={"(?i)q": 4}), "alpha_pattern=.* is no regular expression"),
    "targets number": (lora(target_modules=3), "target_modules=3, expected a list of strings or a string"),
    "targets numbers": (lora(target_modules=["q_proj", 3]), "target_modules=.*, expected a list of strings"),
    "targets object": (lora(target_modules={"q_proj": 1}), "target_modules=.*, expected a list of strings"),
    "targets no expression": (lora(target_modules="*_proj"), r"target_modules='\*_proj' is no regular"),
    "excluded number": (lora(exclude_modules=3), "exclude_modules=3, expected a list of strings or a string"),
    "layers text": (lora(layers_to_transform="1"), "layers_to_transform='1', expected an integer"),
    "layers pattern": (
        lora(layers_pattern=["(?P<idx>h)"], layers_to_transform=[1]),
        "layers_pattern=.* is no regular expression",
    ),
    "an expression that never ends": (
        lora(target_modules=r"(([a-z0-9_.])+)+!"),
        r"target_modules='.*': matching the base's \d+ modules found no end within",
    ),
    "a pattern that never ends": (
        lora(rank_pattern={r"(?:.|[a-z])*(?:.|[a-z])*!": 6}),
        r"rank_pattern='.*': matching the base's \d+ modules found no end within",
    ),
    "a million patterns": (lora(rank_pattern={f"m{i}": 6 for i in range(300_000)}), "has 300,000 entries, but no"),
    "targets beyond the base": (
        lora(target_modules=[f"m{i}" for i in range(300_000)]),
        "target_modules has 300,000 entries, but no adapter needs more than",
    ),
    "megabytes of patterns": (
        lora(rank_pattern={f"{i:03}{'q' * 9000}": 6 for i in range(500)}),
        "have 4,501,500 characters together, no adapter needs more than 200,000",
    ),
    "patterns of two fields": (
        lora(**{key: {f"{i:02}{'q' * 9000}": 6 for i in range(12)} for key in ("rank_pattern", "alpha_pattern")}),
        "have 216,048 characters together",
    ),
    "a megabyte of pattern": (lora(target_modules="q" * 10**6), "have 1,000,000 characters together, no adapter needs"),
}

_TENSORS = {
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

_VOCABULARY = {
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

_SIZES = {
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

_ALL = (_FILES, _JSON, _SETTINGS, _LORA, _TENSORS, _VOCABULARY, _SIZES)
VARIANTS = {name: variant for variants in _ALL for name, variant in variants.items()}
"""name: (function that spoils a folder, expression that the error matches)."""

assert len(VARIANTS) == sum(map(len, _ALL)), "a name stands twice"
