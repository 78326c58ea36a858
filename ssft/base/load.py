"""Base models: a name becomes weights on disk, and weights on disk become a model.

A base is named by an alias (`smollm2-135m`; the table is `named.py`), by a folder, or by a hub id (`owner/name`). An
alias wins over a folder of the same name: write `./smollm2-135m` for the folder. Torch and transformers are imported
inside the functions, so that listing bases stays quick.
"""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ssft.base.embedded import base_path, check_folder, fetch, is_fetched
from ssft.base.named import ALIASES, EMBEDDED
from ssft.errors import BaseModelError, ConfigError, nearest
from ssft.schema import PATH, check, is_hub_id

if TYPE_CHECKING:
    import torch

# On AVX512-BF16 CPUs bitsandbytes warns at import that its optional `kernels` package is absent;
# it then takes its own C++ kernel, so the warning calls for nothing.
logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)

_log = logging.getLogger(__name__)

DTYPES = ("auto", "float32", "bfloat16", "float16")
QUANTIZATIONS = ("none", "4bit")


def hub_id(identity: str) -> str | None:
    """The hub's name of a base by its fingerprint's `id`; None for one that was trained from a folder."""
    if identity in ALIASES:
        return ALIASES[identity].hub_id
    return identity if is_hub_id(identity) else None


def public_name(identity: str, place: str) -> str:
    """The name by which others find a base: the hub's where it has one, else the folder `place` that it was loaded
    from, written so that it is no hub id; `identity` is its fingerprint's `id`."""
    if (known := hub_id(identity)) is not None or not place:
        return known or identity
    return f"./{place}" if is_hub_id(place) else place


def find_base(identity: str, public: str) -> str:
    """The base of an adapter, as `resolve_base` takes it: by ssft's own name of it, else by the one that others go by.

    identity: empty for an adapter that ssft did not write. public: the name in `adapter_config.json`, which for such an
    adapter means the embedded base if that has this hub id. Where neither name leads anywhere, the result is the one
    that says most, for the message of `resolve_base`.
    """
    if hub_id(identity) is not None:
        return identity
    for alias in EMBEDDED.values():
        if public == alias.hub_id:
            _log.warning("base %s: taking %s, ssft's quantised copy; --base takes another", public, alias.name)
            return alias.name
    known = is_hub_id(public) or _local(public).is_dir()
    return identity if identity and not known and _local(identity).is_dir() else public or identity


def resolve_base(name: str | os.PathLike[str], progress: bool = True) -> Path | str:
    """What `from_pretrained` takes for a base's name: the folder of an embedded base (fetched if absent), a local
    folder (whose weights must be whole) or a hub id, of an alias or as it is. Raises `BaseModelError` for anything
    else."""
    text = os.fspath(name)
    if text in EMBEDDED:
        return base_path(text) if is_fetched(text) else fetch(text, progress=progress)
    if text in ALIASES:
        return ALIASES[text].hub_id
    folder = _local(text)
    if text and os.path.isdir(folder):  # false also for what no folder can be named
        check_folder(folder)
        return folder
    if is_hub_id(text):
        return text
    hint = nearest(text, ALIASES, whole=True) or "give one of these with --base"
    raise BaseModelError(
        f"base {text!r} is neither an alias ({', '.join(sorted(ALIASES))}), nor an existing folder, "
        f"nor a hub id of the form owner/name; {hint}"
    )


def fetch_base(name: str, progress: bool = True) -> Path:
    """The folder of an alias's base on this machine, fetched if need be: an embedded one into ssft's own cache, another
    one into the hub's. Raises `BaseModelError` for what is no alias, and where the base cannot be had."""
    if name not in ALIASES:
        hint = nearest(name, ALIASES, whole=True) or f"aliases are {', '.join(sorted(ALIASES))}"
        raise BaseModelError(f"{name!r} is no alias of a base; {hint}")
    if name in EMBEDDED:
        return fetch(name, progress)
    from huggingface_hub import snapshot_download

    hub_id = ALIASES[name].hub_id
    try:
        folder = Path(snapshot_download(hub_id, allow_patterns=list(_PARTS), ignore_patterns=["*/*"]))
    except Exception as error:  # the hub's library raises anything here, from OSError to httpx's own types
        raise BaseModelError(
            f"base {name!r} ({hub_id}) cannot be fetched: {type(error).__name__}: {error}\n{_to_be_had(name)}."
        ) from error
    check_folder(folder)
    return folder


_PARTS = ("*.json", "*.safetensors", "*.model", "*.txt", "*.jinja")
"""Files of a repository that a base is loaded from."""


def fetched_folder(name: str) -> Path | None:
    """Where the base of an alias lies whole on this machine; None if it does not."""
    if name in EMBEDDED:
        return base_path(name) if is_fetched(name) else None
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(ALIASES[name].hub_id, "config.json")
    if not isinstance(found, str):
        return None
    try:
        check_folder(Path(found).parent)
    except BaseModelError:
        return None
    return Path(found).parent


def _local(name: str) -> Path:
    """The path that a name is on this machine; "~" is the home of the user, if there is one of that name."""
    return Path(os.path.expanduser(name))


def named_device(device: str | torch.device | None) -> torch.device:
    """The device of that name; None and "auto" mean CUDA if there is one, else the CPU. Raises `ConfigError` for a name
    that torch does not know, whether or not there is such a device here."""
    import torch

    if device is None or (isinstance(device, str) and device == "auto"):
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return torch.device(device)
    except (RuntimeError, TypeError, ValueError) as error:
        raise ConfigError(f"device {device!r} is unknown. Use cpu, cuda, cuda:N, mps or auto.") from error


def auto_dtype(device: str | torch.device | dict[str, Any] | None = None) -> torch.dtype:
    """bfloat16 where `device` computes it natively, else float32. None, "auto" and a map of modules mean CUDA if there
    is one, else the CPU."""
    import torch

    cuda = torch.cuda.is_available()
    kind = named_device(None if isinstance(device, dict) else device).type
    native = (kind == "cuda" and cuda and torch.cuda.is_bf16_supported(including_emulation=False)) or (
        kind == "cpu" and (torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
    )
    return torch.bfloat16 if native else torch.float32


def _device_map(device: str | dict[str, Any] | None) -> dict[str, Any] | str | None:
    """What `from_pretrained` takes: None keeps the model on the CPU without accelerate's hooks."""
    import torch

    if device is None:
        return {"": "cuda:0"} if torch.cuda.is_available() else None
    if device == "auto" or isinstance(device, dict):
        return device
    kind = named_device(device).type
    available = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if not available.get(kind, False):
        raise ConfigError(f"device {device!r} is not available here. Leave --device out, or use --device cpu.")
    return {"": device}


def load_base(
    name: str | os.PathLike[str],
    dtype: str = "auto",
    quantization: str = "none",
    device: str | dict[str, Any] | None = None,
    attn_implementation: str | None = None,
) -> tuple[Any, Any]:
    """Load a base as (model in eval mode, tokenizer).

    `quantization="4bit"` is NF4 without double quantisation, computing in `dtype`. A folder or a fetched alias makes no
    network call. Weights come from safetensors alone and no code of the base is run, since the base may be the one that
    a stranger's adapter names. Raises `ConfigError` for a bad setting, else `BaseModelError`.
    """
    if dtype not in DTYPES:
        raise ConfigError(f"dtype {dtype!r} is unknown. Use one of {', '.join(DTYPES)}.")
    if quantization not in QUANTIZATIONS:
        raise ConfigError(f"quantization {quantization!r} is unknown. Use one of {', '.join(QUANTIZATIONS)}.")
    check(PATH, name, "base", BaseModelError)
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig

    device_map = _device_map(device)
    chosen = auto_dtype(device) if dtype == "auto" else getattr(torch, dtype)
    given = {"device_map": device_map, "attn_implementation": attn_implementation}
    options = {"dtype": chosen, **{key: value for key, value in given.items() if value is not None}}
    source = resolve_base(name)
    local = {"local_files_only": True} if isinstance(source, Path) else {}
    try:
        if quantization == "4bit":
            options["quantization_config"] = BitsAndBytesConfig(
                load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=chosen
            )
        tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=False, **local)
        model = AutoModelForCausalLM.from_pretrained(
            source, trust_remote_code=False, use_safetensors=True, **local, **options
        )
    except Exception as error:  # libraries raise anything here, from OSError to their own types
        raise BaseModelError(
            f"base {os.fspath(name)!r} cannot be loaded with dtype={dtype}, quantization={quantization}, "
            f"device={device}: {type(error).__name__}: {error}\n{_remedy(error, os.fspath(name), local=bool(local))}"
        ) from error
    _limit_packing(model)
    return model, tokenizer


def _limit_packing(model: torch.nn.Module) -> None:
    """Let bitsandbytes pack only the 4-bit layers that compute in bfloat16 and that its packed form can hold.

    On a CPU with AVX512-BF16 bitsandbytes packs the weight [out, in] of every 4-bit layer at its first evaluation pass.
    The packed product is in bfloat16 whatever the layer is told to compute in, so float32 would not be float32. And it
    takes `out` a multiple of 32 and `in` a multiple of the quantisation's block (64): any other shape is an error in
    the middle of the pass. A layer that is not packed computes as on every other CPU, which takes longer (docs/log.md,
    "Four bits on a CPU with bfloat16 instructions").
    """
    import torch

    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):  # bitsandbytes' Linear4bit
            layer: Any = module
            out, columns = layer.weight.quant_state.shape
            fits = out % 32 == 0 and columns % layer.weight.quant_state.blocksize == 0
            if layer.compute_dtype != torch.bfloat16 or not fits:
                layer.support_avx512bf16_for_cpu = False


def _remedy(error: Exception, name: str, local: bool) -> str:
    """What to do about an error of transformers while it loaded a base."""
    if isinstance(error, OSError) and "safetensors" in str(error):
        return (
            "ssft loads weights from safetensors only, never from a pickle (.bin), which can run code when it is read. "
            "Load the model once where you trust it, save it with save_pretrained, and give that folder."
        )
    if "trust_remote_code" in str(error):
        return "ssft runs no code that comes with a base. Give a base whose architecture transformers has itself."
    where = "Check the folder's files" if local else _to_be_had(name)
    return f"{where}; then --dtype, --quantization and --device."


def _to_be_had(name: str) -> str:
    """What to check where the hub does not give a base."""
    base = ALIASES.get(name)
    if base is None or not base.gated:
        return "Check the id, the network, HF_TOKEN for a gated model and HF_HUB_OFFLINE, or give a folder"
    return (
        f"The hub gives it only to accounts that have accepted its licence ({base.licence}): do so at "
        f"https://huggingface.co/{base.hub_id} and set HF_TOKEN. Else check the network and HF_HUB_OFFLINE, or give a "
        "folder"
    )


def eos_token_ids(model: Any, tokenizer: Any) -> set[int]:
    """The end-of-sequence tokens of a model's generation settings, else the tokenizer's."""
    eos = model.generation_config.eos_token_id if model.generation_config is not None else None
    eos = tokenizer.eos_token_id if eos is None else eos
    return set(eos if isinstance(eos, list) else [] if eos is None else [eos])
