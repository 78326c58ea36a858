"""Adapter folders whose settings, of streams or of the LoRA, are wrong or mean harm.

Every entry is (function that spoils a good bundle, expression that the error matches).
"""

import torch
from spoiling import CONFIG, STREAMS, VOCABULARY, holds, lora, section, settings, tensors

BAD_SETTINGS = {
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

BAD_LORA = {
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
