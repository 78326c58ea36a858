"""What the hub reads of a card: its metadata, and the measurements for the model-index."""

from huggingface_hub import EvalResult, ModelCardData

from ssft.base.load import hub_id
from ssft.bundle.format import Bundle
from ssft.card.results import Results
from ssft.card.rows import OWN_ROWS, rows_of
from ssft.card.tables import data_files

_TAGS = ["lora", "ssft", "speculative-streaming", "speculative-decoding"]


def front_matter(bundle: Bundle, results: Results, name: str) -> ModelCardData:
    """The metadata of the card `name`, without a base that the hub does not know, since the hub refuses its name."""
    evaluations = _evaluations(bundle, results)
    metrics = {e.metric_type for e in evaluations} & {"exact_match", "rouge"}
    base = hub_id(bundle.base["id"])
    return ModelCardData(
        base_model=base,
        base_model_relation="adapter" if base else None,
        library_name="peft",
        pipeline_tag="text-generation",
        tags=_TAGS,
        datasets=datasets_of(bundle, results) or None,
        license=results.about.license or None,
        metrics=sorted(metrics) or None,
        model_name=name if evaluations else None,
        eval_results=evaluations or None,
    )


def datasets_of(bundle: Bundle, results: Results) -> list[str]:
    """The hub's datasets that the user names, else the one, owner/name[:config], that the run was trained on."""
    train = data_files(bundle).get("train", {})
    name = train.get("name", "").partition(":")[0]
    return results.about.datasets or ([name] if "sha256" not in train and name and hub_id(name) == name else [])


def _evaluations(bundle: Bundle, results: Results) -> list[EvalResult]:
    """The streams' measurements and the quality."""
    found, rows = [], rows_of(results, bundle)
    for row in rows.speed:
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
    for quality in rows.quality:
        kind = "rouge" if quality.metric.startswith("rouge") else quality.metric
        label = quality.metric.replace("rouge", "ROUGE-").replace("_", " ")
        found.append((quality.data, kind, f"{label}, % ({quality.rows} rows)", round(quality.value, 2)))
    files, datasets = data_files(bundle), datasets_of(bundle, results)
    own = next((files[part]["name"] for part in ("validation", "train") if part in files), OWN_ROWS)
    return [
        EvalResult(
            task_type="text-generation",
            dataset_type=data if data != OWN_ROWS else datasets[0] if datasets else own,
            dataset_name=own if data == OWN_ROWS else data,
            dataset_split="validation" if data == OWN_ROWS else None,
            metric_type=kind,
            metric_name=label,
            metric_value=value,
        )
        for data, kind, label, value in found
        if data  # without data there is no entry in the index; the card's table has the row
    ]
