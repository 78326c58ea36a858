"""Whether a plain LoRA is the twin of an adapter: what `method=lora` trains with the recipe of that adapter.

The one rule for all that sets the two side by side. It needs no models, only what the folders of both tell of their
training: `run.yaml` the settings, `provenance.json` the data, the steps and the first values.
"""

from dataclasses import asdict
from pathlib import Path
from typing import Any

from ssft.bundle.format import RUN, Bundle
from ssft.errors import SSFTError
from ssft.files import to_json
from ssft.recipes.recipe import load_recipe

_LORA = ("r", "lora_alpha", "lora_dropout", "target_modules", "use_rslora", "bias")
_REPORTING = ("logging", "measure_", "log_", "save", "eval", "per_device_eval", "disable_tqdm", "report_to")
_STREAMS = ("num_streams", "num_msa_layers", "identifier", "mode", "projection_rank", "stream_", "prune_", "main_")
"""How settings of a training begin that do not reach the LoRA of a run without streams."""


def training_of(folder: Path, provenance: dict[str, Any]) -> dict[str, Any]:
    """What decides which LoRA a training gives, as far as its folder and the provenance in it tell; values of JSON.

    name, sha256: of the training data; steps; began_from: hash of the adapter whose values were the first ones;
    settings: by dotted key, those of run.yaml that reach a LoRA without streams, empty if it cannot be read.
    """
    data, start = provenance.get("data"), provenance.get("adapter")
    entry = data.get("train") if isinstance(data, dict) else None
    found = {key: entry.get(key) for key in ("name", "sha256")} if isinstance(entry, dict) else {}
    found["steps"] = provenance.get("steps")
    found["began_from"] = start.get("weights_sha256") if isinstance(start, dict) else None
    told = {key: str(value) for key, value in found.items() if value is not None}
    try:
        return {**told, "settings": to_json(_settings(folder / RUN))}
    except SSFTError:
        return {**told, "settings": {}}


def differences(adapter: Bundle, twin: dict[str, Any], twin_sha256: Any) -> list[str]:
    """What the training of a plain LoRA did not have in common with the adapter's, in words; nothing for its twin.

    twin: `training_of` the plain LoRA, perhaps from a result file, where one of an earlier version has no settings.
    twin_sha256: hash of the LoRA; the one that the adapter began from or keeps is no twin, and told as what it is.
    """
    own = training_of(adapter.path, adapter.provenance)
    if twin_sha256 and own.get("began_from") == twin_sha256:
        did = "keeps" if len(adapter.loras) > 1 else "began from"
        return [f"it is the plain LoRA that the adapter {did}, trained on {twin.get('name', 'data not told')}"]
    found = []
    if not twin.get("name"):
        found.append("trained on data that are not told")
    elif any(twin.get(key) != own.get(key) for key in ("name", "sha256")):
        found.append(f"trained on {twin['name']}")
    if "steps" in twin and twin["steps"] != own.get("steps"):
        found.append(f"{twin['steps']} steps")
    if twin.get("began_from") != own.get("began_from"):
        found.append("began from other values")
    if "settings" in twin:
        left, right = own["settings"], twin["settings"]
        if not left or not isinstance(right, dict) or not right:
            return [*found, "settings that are not told"]
        keys = [key for key in {**left, **right} if left.get(key) != right.get(key)]
        found += [f"{key} ({left.get(key)!r:.30}, {right.get(key)!r:.30})" for key in keys]
    return found


def _settings(path: Path) -> dict[str, Any]:
    """Data are left out: the provenance names the file, wherever it lay."""
    if not path.is_file():
        return {}
    recipe = load_recipe(path)
    values = {key: getattr(recipe, key) for key in ("base", "quantization")}
    values |= {
        # Validation rows decide nothing.
        f"data.{key}": value
        for key, value in asdict(recipe.data).items()
        if key != "train" and not key.startswith(("validation", "max_validation"))
    }
    for key in _LORA:
        value = getattr(recipe.lora, key)
        values[f"lora.{key}"] = sorted(value) if isinstance(value, set) else value
    values |= {f"training.{k}": v for k, v in recipe.training.items() if not k.startswith((*_REPORTING, *_STREAMS))}
    return values
