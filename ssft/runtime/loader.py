"""One base with one adapter over it, ready to decode: the simplest case of `MultiAdapterModel`."""

from pathlib import Path
from typing import Annotated, Any

from peft import PeftModel

from ssft.base.fingerprint import base_fingerprint
from ssft.base.load import load_base
from ssft.bundle.fit import check_fit
from ssft.bundle.format import Bundle
from ssft.bundle.hub import resolve_adapter
from ssft.bundle.lora_config import check_low_rank
from ssft.bundle.read import read_outline
from ssft.errors import ConfigError
from ssft.runtime.model import MultiAdapterModel
from ssft.schema import check


def load_adapted(
    adapter: str | Path | None,
    base: str | None = None,
    *,
    dtype: str = "auto",
    quantization: str = "none",
    device: str | None = None,
    merge: bool = False,
    fast: bool = True,
    graphs: bool = True,
) -> MultiAdapterModel:
    """Load a base and put one adapter over it, which is then the active one; `adapter` None decodes the bare base.

    `adapter` is a folder, or else a repository of the hub as owner/name, fetched into the hub's cache. The bundle's
    configs and headers are checked before the base is loaded, its weights are read once they are known to fit (with
    `merge` by peft first, which merges them). `base` defaults to the one the bundle was made for.
    `merge` adds the LoRA into the base's weights: main stream and streams share it (paper §3.2.4, shared mode), so the
    streams stay right, and no pass pays for the low-rank products; a LoRA of the streams' own stays beside them. The
    adapter can then not be taken off again. `fast`, `graphs`: see `MultiAdapterModel`.
    """
    check(Annotated[bool, "True or False"], merge, "merge")
    if merge and quantization == "4bit":
        raise ConfigError(
            "merge: 4-bit weights cannot hold a LoRA without being quantised anew, which would change the model; "
            "leave out --merge or take --quantization none"
        )
    folder = None if adapter is None else resolve_adapter(adapter)
    bundle = None if folder is None else read_outline(folder)
    if merge and bundle is not None:
        _check_mergeable(bundle)
    name = base or (bundle.base_name if bundle is not None else None)
    if name is None:
        raise ConfigError(
            f"adapter {str(adapter)!r} does not say which base it was made for; name it with --base"
            if adapter is not None
            else "neither an adapter nor a base was given; name an adapter folder or --base"
        )
    model, tokenizer = load_base(name, dtype=dtype, quantization=quantization, device=device)
    if merge and bundle is not None:
        check_fit(bundle, model, base_fingerprint(model, tokenizer, name))
        model = _merged(model, bundle.path)
    adapted = MultiAdapterModel(model, tokenizer, name, fast=fast, graphs=graphs)
    if adapter is not None and folder is not None:
        own = Path(adapter).resolve().name
        adapted.bank.add(own, folder, merged=merge)
        adapted.set_adapter(own)
    return adapted


def _check_mergeable(bundle: Bundle) -> None:
    """Raise an `SSFTError` for a LoRA that the base's weights cannot hold without changing what it does."""
    if bundle.text_lora is None:
        raise ConfigError(
            f"{bundle.path}: merge: the adapter is lossless, its LoRA acts on the streams alone; in the base's weights "
            "it would change the text. Leave out --merge"
        )
    # peft merges by itself whatever the config asks for, be it modules that it has to import.
    check_low_rank(bundle.loras[0].config_file, bundle.loras[0].config)


def _merged(model: Any, folder: Path) -> Any:
    """The base with the text's LoRA added into its weights."""
    model = PeftModel.from_pretrained(model, str(folder), autocast_adapter_dtype=False)
    return model.merge_and_unload()
