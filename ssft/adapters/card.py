"""The card of an adapter (README.md of its bundle), written from its files; numbers never come by hand."""

from typing import Any

import yaml

from ssft.adapters.bundle import CARD, RUN, Bundle

_PEFT = {
    "shared": (
        "Plain peft loads the same folder as an ordinary LoRA and decodes the same greedy text:",
        "`PeftModel.from_pretrained(base, folder)`.",
    ),
    "lossless": (
        "The adapter is lossless: its LoRA acts on the streams alone, and the text is the base's own. Decode it with",
        "ssft; plain peft would apply the LoRA to the text too.",
    ),
}
"""What plain peft makes of the folder, by the mode of its streams."""


def write_card(bundle: Bundle) -> None:
    """Write `README.md` into the bundle's folder."""
    (bundle.path / CARD).write_text(card_text(bundle), encoding="utf-8")


def card_text(bundle: Bundle) -> str:
    """The card as Markdown with the hub's front matter."""
    front: dict[str, Any] = {
        "base_model": bundle.base["id"],
        "library_name": "peft",
        "tags": ["lora", "ssft", "speculative-streaming", "speculative-decoding"],
        "pipeline_tag": "text-generation",
    }
    streams = bundle.stream_config
    assert streams is not None
    source = bundle.provenance
    metrics = source.get("metrics", {})
    lines = [
        "---",
        yaml.safe_dump(front, sort_keys=False).strip(),
        "---",
        "",
        f"# {bundle.path.name}",
        "",
        f"A LoRA adapter with speculative streams (Speculative Streaming, arXiv 2402.11131) for `{bundle.base['id']}`.",
        "",
        "```bash",
        f"ssft generate {bundle.path.name} --prompt '...'        # drafts and verifies in one pass",
        "```",
        "",
        *_PEFT[streams.mode],
        "",
        "| | |",
        "|---|---|",
        f"| streams γ, layers N_s | {streams.num_streams}, {streams.num_msa_layers} |",
        f"| LoRA rank | {bundle.lora['r']} |",
        f"| parameters: LoRA, streams | {bundle.lora_parameters:,}, {bundle.extra_parameters:,} |",
        f"| draft tree | {bundle.tree.kind}, {bundle.tree.max_nodes} nodes |",
    ]
    if source:
        lines += [
            f"| trained on | {source['train_rows']:,} rows of {source['data']['train']['name']}, "
            f"{source['steps']:,} steps, {source['train_seconds']:,.0f} s |",
            f"| device | {source['device']} |",
        ]
        lines += [f"| {key} | {value:.4g} |" for key, value in sorted(metrics.items()) if "acceptance" in key]
    lines += ["", f"`{RUN}` and `provenance.json` hold the settings, versions and the training history.", ""]
    return "\n".join(lines)
