"""The card of an adapter (README.md of its bundle), written from its files; numbers never come by hand."""

import json
import re
import shlex
from typing import Any

from huggingface_hub import EvalResult, ModelCardData

from ssft.base.embedded import ALIASES
from ssft.base.load import hub_id
from ssft.bundle.folder import finite
from ssft.bundle.format import CARD, CURVE, PROVENANCE, RUN, Bundle
from ssft.bundle.notes import KEPT, read_notes
from ssft.bundle.results import OWN_ROWS, Results, read_results
from ssft.card.markdown import code, fenced, plain
from ssft.card.picture import draw_curve, has_curve
from ssft.card.tables import measured_section
from ssft.errors import BundleError, ConfigError
from ssft.files import write_bytes

_TAGS = ["lora", "ssft", "speculative-streaming", "speculative-decoding"]

_PEFT = {
    True: "Plain peft loads the same folder as an ordinary LoRA and decodes the same greedy text, without streams:",
    False: (
        "The adapter is lossless: its LoRA acts on the streams alone, and the text is the base's own. Decode it with "
        "ssft; plain peft would apply the LoRA to the text too."
    ),
}
"""What plain peft makes of the folder, by whether its LoRA is one for the text."""


def write_card(bundle: Bundle) -> bool:
    """Write `README.md` and, where there is a history to draw, `training.png` into the bundle's folder.

    What stands below `KEPT` in the card that is there stays. Returns whether anything changed.

    Raises:
        ConfigError: the adapter has no streams. BundleError: a file that the card is made from is damaged, or the card
            that is there is not ssft's.
    """
    notes = check_card(bundle)
    files = {CARD: (card_text(bundle) + notes).encode()}
    if picture := draw_curve(bundle.provenance.get("history", [])):
        files[CURVE] = picture
    changed = False
    for name, data in files.items():
        path = bundle.path / name
        same_size = path.is_file() and not path.is_symlink() and path.stat().st_size == len(data)
        if same_size and path.read_bytes() == data:
            continue
        try:
            write_bytes(path, data)
        except OSError as error:
            raise BundleError(f"{path}: cannot be written ({error.strerror or error})") from error
        changed = True
    return changed


def check_card(bundle: Bundle) -> str:
    """What stands below `KEPT` in the card that is there; raises what `write_card` would raise before it writes."""
    if bundle.stream_config is None:
        raise ConfigError(
            f"{bundle.path}: a plain peft LoRA without streams, which are what the card is about; peft "
            "writes the cards of its own adapters"
        )
    ours, notes = read_notes(bundle.path, CARD)
    if not ours:
        raise BundleError(
            f"{bundle.path / CARD}: not written by ssft, and would be lost; to keep it below the card, make this its "
            f"first line: {KEPT} - or move it away"
        )
    return notes


def card_text(bundle: Bundle, results: Results | None = None) -> str:
    """The card as Markdown with the hub's front matter; `results` default to those in the folder."""
    results = results or read_results(bundle)
    name = bundle.path.resolve().name
    lines = [
        "---",
        front_matter(bundle, results, name).to_yaml().strip(),
        "---",
        "",
        f"# {plain(name)}",
        "",
        f"A LoRA adapter with speculative streams (Speculative Streaming, arXiv 2402.11131) for {_base(bundle)}: it "
        "drafts its next tokens itself and checks them in the same pass. In float32 the text is that of plain "
        "decoding.",
        "",
        *_use(bundle, name),
        *measured_section(results),
        *_training(bundle),
        *_licence(bundle, results),
    ]
    # A name that holds the mark would make the rest of the card the user's.
    text = "\n".join(lines).replace(KEPT, "")
    return f"{text}\n{KEPT}\n"


def front_matter(bundle: Bundle, results: Results, name: str) -> ModelCardData:
    """What the hub reads. A base that the hub does not know is left out, since the hub refuses its name."""
    about = results.about
    evaluations = _evaluations(bundle, results)
    metrics = [e.metric_type for e in evaluations if e.metric_type in ("exact_match", "rouge")]
    datasets = about.datasets or _hub_datasets(bundle)
    base = hub_id(bundle.base["id"])
    return ModelCardData(
        base_model=base,
        base_model_relation="adapter" if base else None,
        library_name="peft",
        pipeline_tag="text-generation",
        tags=_TAGS,
        datasets=datasets or None,
        license=about.license or None,
        metrics=sorted(set(metrics)) or None,
        model_name=name if evaluations else None,
        eval_results=evaluations or None,
    )


def _evaluations(bundle: Bundle, results: Results) -> list[EvalResult]:
    """The streams' measurements and the quality, for the hub's model-index."""
    found = []
    for row in results.speed:
        if row.method != "streaming":
            continue
        setting = f"{row.precision}, batch {row.batch_size}, {row.device}"
        if row.calls:
            value = round(row.tokens / row.calls, 3)
            found.append((row.data, "tokens_per_call", f"Tokens per call ({setting}, tree {row.tree})", value))
        if row.speedup is not None:
            found.append((row.data, "speedup", f"Speed-up over {row.baseline} ({setting})", round(row.speedup, 3)))
        if row.identical is not None and row.rows:
            share = round(100 * row.identical / row.rows, 2)
            found.append((row.data, "identical_outputs", f"Outputs equal to {row.reference}'s, % ({setting})", share))
    for quality in results.quality:
        kind = "rouge" if quality.metric.startswith("rouge") else quality.metric
        label = quality.metric.replace("rouge", "ROUGE-").replace("_", " ")
        found.append((quality.data, kind, f"{label}, % ({quality.rows} rows)", round(quality.value, 2)))
    datasets = results.about.datasets or _hub_datasets(bundle)
    own = _source(bundle, "validation") or _source(bundle, "train") or OWN_ROWS
    return [
        EvalResult(
            task_type="text-generation",
            dataset_type=(datasets[0] if datasets else own) if data == OWN_ROWS else data,
            dataset_name=own if data == OWN_ROWS else data,
            dataset_split="validation" if data == OWN_ROWS else None,
            metric_type=kind,
            metric_name=label,
            metric_value=value,
        )
        for data, kind, label, value in found
        if data  # without data there is no entry in the index; the card's table has the row
    ]


# -- sections ---------------------------------------------------------------------------------------------------


def _base(bundle: Bundle) -> str:
    identity = bundle.base["id"]
    known = hub_id(identity)
    if known is None:
        return code(identity)
    link = f"[{known}](https://huggingface.co/{known})"
    return f"{link} (`{identity}`)" if identity in ALIASES else link


def _use(bundle: Bundle, name: str) -> list[str]:
    text = json.dumps(name, ensure_ascii=False)
    shell = f"ssft generate {shlex.quote(name)} --prompt '...'   # a folder, or owner/name on the hub"
    python = [
        "from ssft import load_adapted",
        "",
        f"adapted = load_adapted({text})",
        'ids = adapted.encode({"prompt": "..."})',
        "result = adapted.decoder().generate([ids], max_new_tokens=128, eos_token_ids=adapted.eos_token_ids)[0]",
        "print(adapted.decode(result.token_ids), len(result.token_ids) / result.calls)",
    ]
    lines = [
        "## Use",
        "",
        *fenced("bash", shell),
        "",
        *fenced("python", "\n".join(python)),
        "",
        _PEFT[bundle.text_lora is not None],
        "",
    ]
    if bundle.text_lora is None:
        return lines
    base = hub_id(bundle.base["id"]) or "folder/of/the/base"
    peft = [
        "from peft import PeftModel",
        "from transformers import AutoModelForCausalLM, AutoTokenizer",
        "",
        f'tokenizer = AutoTokenizer.from_pretrained("{base}")',
        f'model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained("{base}"), {text})',
    ]
    lines += [*fenced("python", "\n".join(peft)), ""]
    if alias := ALIASES.get(bundle.base["id"]):
        lines += [
            f"Trained and measured over the quantised copy of that base (`{alias.member.rpartition('/')[2]}`) which "
            f"`ssft bases fetch {alias.name}` gets; the folder that it prints can stand in place of the base's name.",
            "",
        ]
    return lines


def _training(bundle: Bundle) -> list[str]:
    streams, source = bundle.stream_config, bundle.provenance
    assert streams is not None
    lora, *own_lora = bundle.loras
    adapted = lora.config.get("target_modules")
    modules = ", ".join(sorted(map(str, adapted))) if isinstance(adapted, list) else str(adapted)
    rows = [
        ("streams γ, layers N_s", f"{streams.num_streams}, {streams.num_msa_layers}"),
        ("LoRA rank, modules", plain(f"{lora.config['r']}; {modules}")),
        ("parameters: LoRA, streams", f"{lora.parameters:,}, {bundle.stream_parameters:,}"),
        ("weights", f"{bundle.weights_bytes / 1e6:,.1f} MB"),
        ("draft tree", f"{bundle.tree.kind}, {bundle.tree.max_nodes} nodes"),
    ]
    for part in own_lora:
        own = f"{part.config['r']}, {part.parameters:,}"
        rows.insert(3, ("the streams' own LoRA: rank, parameters", plain(own)))
    count, steps, seconds = (_count(source, key) for key in ("train_rows", "steps", "train_seconds"))
    began = source.get("adapter")
    if isinstance(began, dict) and isinstance(began.get("name"), str):
        how = "the LoRA" if own_lora else "began from"
        kept = f", kept as it was, in {lora.dtype}" if own_lora else ""
        rows.append((how, plain(f"the adapter {began['name']}{kept}")))
    if count is not None:
        rows.append(("trained on", f"{count:,.0f} rows of {plain(_source(bundle, 'train') or 'data without a name')}"))
    if steps is not None:
        rows.append(("steps", f"{steps:,.0f}"))
    if seconds is not None:
        rows.append(("time", f"{seconds:,.0f} s ({seconds / 3600:.2f} h)"))
    if isinstance(device := source.get("device"), str):
        processes = _count(source, "processes") or 1
        rows.append(("device", plain(device) + (f", {processes:.0f} processes" if processes > 1 else "")))
    libraries = source.get("libraries")
    versions = {"ssft": source.get("ssft"), **(libraries if isinstance(libraries, dict) else {})}
    shown = [f"{key} {versions[key]}" for key in ("ssft", "torch", "transformers", "peft", "trl") if versions.get(key)]
    if shown:
        rows.append(("versions", plain(", ".join(shown))))
    metrics = source.get("metrics")
    for key, value in sorted(metrics.items()) if isinstance(metrics, dict) else ():
        number = finite(value)
        if re.fullmatch(r"eval_(acceptance_\d{1,2}|chain_tokens_per_call)", key) and number is not None:
            title = key.removeprefix("eval_").replace("_", " ")
            rows.append((f"{title}, at the end, teacher-forced", f"{number:.3f}"))
    lines = ["## Training", "", "| | |", "|---|---|", *(f"| {title} | {text} |" for title, text in rows), ""]
    if has_curve(source.get("history", [])):
        lines += [f"![Losses and acceptance over the steps]({CURVE})", ""]
    has_run = (bundle.path / RUN).is_file() and (bundle.path / RUN).stat().st_size
    again = f"`ssft train {RUN}` runs it again; " if has_run else ""
    return [*lines, f"{again}`{PROVENANCE}` holds versions, hashes of the data and the whole history.", ""]


def _licence(bundle: Bundle, results: Results) -> list[str]:
    about = results.about
    datasets = about.datasets or _hub_datasets(bundle)
    lines = ["## Data and licence", ""]
    for part in ("train", "validation"):
        if name := _source(bundle, part):
            sha256 = bundle.provenance["data"][part].get("sha256", "")
            lines.append(f"- {part}: {code(name)}" + (f", sha256 {code(str(sha256)[:16])}…" if sha256 else ""))
    lines += [f"- dataset: [{name}](https://huggingface.co/datasets/{name})" for name in datasets]
    lines.append(f"- licence of the adapter: {plain(about.license) or 'not given'}")
    if about.data_license:
        lines.append(f"- licence of the data: {plain(about.data_license)}")
    return [*lines, ""]


# -- from the bundle's files ------------------------------------------------------------------------------------


def _source(bundle: Bundle, part: str) -> str:
    """Name of the training's data file or dataset; "" if it is not told."""
    data = bundle.provenance.get("data")
    entry = data.get(part) if isinstance(data, dict) else None
    name = entry.get("name") if isinstance(entry, dict) else None
    return name if isinstance(name, str) else ""


def _hub_datasets(bundle: Bundle) -> list[str]:
    """The hub's dataset that the run was trained on, owner/name[:config]; a local file is none."""
    data = bundle.provenance.get("data")
    entry = data.get("train") if isinstance(data, dict) else None
    name = _source(bundle, "train").partition(":")[0]
    return [name] if isinstance(entry, dict) and "sha256" not in entry and hub_id(name) == name else []


def _count(source: dict[str, Any], key: str) -> float | None:
    """A finite number of provenance.json, None if it is not told; anything else is a `BundleError`."""
    value = source.get(key)
    if value is None:
        return None
    number = finite(value)
    if number is None or number < 0:
        raise BundleError(f"{PROVENANCE}: {key}={str(value)[:60]!r}, expected a number; the file is damaged")
    return number
