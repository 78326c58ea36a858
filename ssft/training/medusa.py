"""Medusa (arXiv 2401.10774) over an adapted base: heads on the main state that guess the next tokens one by one.

    medusa.json           format version, MedusaConfig, the base's fingerprint, hash of the adapter trained over
    medusa.safetensors    the heads, in the type the base computes in
    run.yaml, provenance.json   what reproduces them

Head j at token t reads what the base's head reads there and guesses y_{t+j}, the very token that stream j guesses, so
that streams and heads differ in nothing but where the guess comes from. Nothing in a folder is ever executed.
"""

import json
import os
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn

from ssft.base.fingerprint import base_fingerprint
from ssft.bundle.folder import AdapterFiles, all_finite
from ssft.bundle.format import LORA_CONFIG, LORA_WEIGHTS
from ssft.errors import BundleError, ConfigError
from ssft.training.peer_folder import result_folder

FORMAT_VERSION = 1
CONFIG, WEIGHTS = "medusa.json", "medusa.safetensors"
MAX_HEADS, MAX_LAYERS = 16, 8
MAX_SHOWN = 200
FINGERPRINT = {"architecture": "architecture", "config_sha256": "model shape", "tokenizer_sha256": "tokenizer"}


@dataclass
class MedusaConfig:
    """Shape of the Medusa heads of one adapter, and the weights of their losses."""

    num_heads: int = field(
        default=4, metadata={"help": "heads; head j guesses the token j places after the next one, as stream j does"}
    )
    num_layers: int = field(
        default=1, metadata={"help": "residual blocks x + SiLU(W·x + b) of each head, below its own vocabulary matrix"}
    )
    loss_decay: float = field(
        default=0.8, metadata={"help": "head j's loss counts loss_decay^j: far tokens are harder and used less often"}
    )

    def check_medusa(self) -> None:
        """Raise `ConfigError` if a field is out of range."""
        if not 1 <= self.num_heads <= MAX_HEADS:
            raise ConfigError(
                f"medusa.num_heads={self.num_heads}: must lie between 1 and {MAX_HEADS}; set num_heads in that range"
            )
        if not 1 <= self.num_layers <= MAX_LAYERS:
            raise ConfigError(
                f"medusa.num_layers={self.num_layers}: must lie between 1 and {MAX_LAYERS}; set num_layers in that "
                "range"
            )
        if not 0 < self.loss_decay <= 1:
            raise ConfigError(
                f"medusa.loss_decay={self.loss_decay}: must lie above 0 and be at most 1; 1 weighs all heads alike"
            )

    def medusa_dict(self) -> dict[str, Any]:
        """The fields as JSON-ready values."""
        return asdict(self)


class MedusaHead(nn.Module):
    """One head: finished states [.., h] -> logits [.., V]."""

    def __init__(self, num_layers: int, hidden_size: int, vocab_size: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(nn.Linear(hidden_size, hidden_size) for _ in range(num_layers))
        self.output = nn.Linear(hidden_size, vocab_size, bias=False)

    def forward(self, states: Tensor) -> Tensor:
        """[.., h] -> [.., V]."""
        for block in self.blocks:
            states = states + F.silu(block(states))
        return self.output(states)


class MedusaHeads(nn.Module):
    """All heads of one adapter; `heads[j-1]` guesses y_{t+j}."""

    def __init__(self, config: MedusaConfig, hidden_size: int, vocab_size: int) -> None:
        """`hidden_size`: width of what the base's head reads."""
        super().__init__()
        config.check_medusa()
        self.config = config
        self.heads = nn.ModuleList(
            MedusaHead(config.num_layers, hidden_size, vocab_size) for _ in range(config.num_heads)
        )

    @classmethod
    def from_base(cls, config: MedusaConfig, head: Any) -> "MedusaHeads":
        """Fresh heads in float32 beside the base's own `head` [V, h]: each starts as its guess of the next token.

        SiLU of zero is zero, so that zero blocks are the identity (as in Medusa).
        """
        weight = head.weight
        if not weight.is_floating_point():
            raise ConfigError(
                f"the base's head is stored as {weight.dtype}, from which no Medusa head can be copied; load a base "
                "whose head is not quantised"
            )
        # No random values are drawn: every one of them would be overwritten.
        with torch.device("meta"):
            heads = cls(config, weight.shape[1], weight.shape[0])
        heads.to_empty(device=weight.device)
        with torch.no_grad():
            for name, parameter in heads.named_parameters():
                if ".output." in name:
                    parameter.copy_(weight)
                else:
                    parameter.zero_()
        return heads

    def forward(self, states: Tensor) -> Tensor:
        """Finished states [.., h] -> logits [.., num_heads, V]."""
        return torch.stack([head(states) for head in self.heads], dim=-2)

    def count(self) -> int:
        """Parameters that inference needs beside base and LoRA."""
        return sum(p.numel() for p in self.parameters())


# -- writing ----------------------------------------------------------------------------------------------------


def save_medusa(
    folder: str | os.PathLike[str],
    heads: MedusaHeads,
    adapted: Any,
    provenance: dict[str, Any] | None = None,
    run_yaml: str = "",
    adapter_sha256: str | None = None,
) -> Path:
    """Write the heads of `adapted` (an `AdaptedModel`) to `folder`, which appears whole or not at all.

    `adapter_sha256` is what `lora_sha256` said when training began; without it the adapter's files are read now.

    Raises:
        ConfigError: `folder` holds something else, or the adapter is lossless.
        BundleError: the heads hold NaN, or the adapter's files are no longer those that were loaded.
    """
    target = Path(folder)
    check_adapter(adapted)
    made_over = lora_sha256(adapted) if adapter_sha256 is None else adapter_sha256
    settings = {
        "format_version": FORMAT_VERSION,
        "medusa": heads.config.medusa_dict(),
        "base": _fingerprint(adapted),
        "adapter": {"name": adapted.name, "lora_sha256": made_over},
    }
    dtype = adapted.model.dtype
    weights = {key: value.detach().to("cpu", dtype).contiguous() for key, value in heads.state_dict().items()}
    with result_folder(target, run_yaml, provenance or {}, lambda old: (old / CONFIG).is_file()) as built:
        save_file(weights, built / WEIGHTS)
        text = json.dumps(settings, indent=2, sort_keys=True, ensure_ascii=False)
        (built / CONFIG).write_text(text + "\n", encoding="utf-8")
        _read(built, adapted, made_over)
    return target


# -- reading ----------------------------------------------------------------------------------------------------


def load_medusa(folder: str | os.PathLike[str], adapted: Any) -> MedusaHeads:
    """The heads in `folder`, ready to guess for `adapted` (an `AdaptedModel`): its device, its type, no gradients.

    Raises:
        ConfigError: the adapter is lossless.
        BundleError: a damaged or incomplete folder, or heads of another base, adapter or shape.
    """
    check_adapter(adapted)
    return _read(folder, adapted, lora_sha256(adapted))


def check_adapter(adapted: Any) -> None:
    """Raise `ConfigError` unless the LoRA acts on the main state, which is what heads read."""
    if adapted.bundle is not None and adapted.bundle.text_lora is None:
        raise ConfigError(
            f"adapter {adapted.name!r} is lossless: its LoRA acts on its streams alone, and Medusa heads read the main "
            "state, which is the base's own; take an adapter of mode=shared or a plain LoRA"
        )


def lora_sha256(adapted: Any) -> str:
    """Hash of the LoRA's two files, as they were when it was loaded; empty for a bare base.

    Not the whole bundle's: another draft tree or other streams change nothing that the heads read.

    Raises:
        BundleError: the folder no longer holds what was loaded.
    """
    bundle = adapted.bundle
    if bundle is None:
        return ""
    files = AdapterFiles(bundle.path)
    for name in (LORA_CONFIG, LORA_WEIGHTS):
        files.read(name)
    if not bundle.unchanged():
        raise BundleError(
            f"{bundle.path}: changed since it was loaded, so it is not the adapter that is in memory; load it again"
        )
    return files.sha256


def _read(folder: str | os.PathLike[str], adapted: Any, made_over: str) -> MedusaHeads:
    files = AdapterFiles(folder)
    path = files.path / CONFIG
    settings = files.json(CONFIG)
    version = settings.get("format_version")
    if version != FORMAT_VERSION or type(version) is not int:  # True == 1.0 == 1
        raise BundleError(
            f"{path}: format_version is {_shown(version)}, this ssft reads {FORMAT_VERSION}; newer heads need a newer "
            "ssft"
        )
    config = _read_config(path, settings.get("medusa"))
    _check_made_for(path, settings, adapted, made_over)
    vocabulary, hidden = adapted.hooks.backbone.head.weight.shape
    # On no device: what the config asks for is compared before any memory is taken.
    with torch.device("meta"):
        heads = MedusaHeads(config, hidden, vocabulary)
    expected = {key: tuple(value.shape) for key, value in heads.state_dict().items()}
    files.shapes(WEIGHTS, sum(p.numel() for p in heads.parameters()) * 8 + 2**20)
    weights = files.tensors(WEIGHTS)
    found = {key: tuple(value.shape) for key, value in weights.items()}
    if expected != found:
        wrong = next(key for key in sorted(expected | found) if expected.get(key) != found.get(key))
        raise BundleError(
            f"{files.path / WEIGHTS}: {wrong} has shape {found.get(wrong)}, but {CONFIG} and the base need "
            f"{expected.get(wrong)}"
        )
    model = adapted.model
    weights = {key: value.to(model.device, model.dtype) for key, value in weights.items()}
    if not all(map(all_finite, weights.values())):
        raise BundleError(f"{files.path / WEIGHTS}: holds values beyond the range of {model.dtype}")
    heads.load_state_dict(weights, assign=True)
    return heads.requires_grad_(False).eval()


def _read_config(path: Path, section: Any) -> MedusaConfig:
    if not isinstance(section, dict):
        raise BundleError(f"{path}: 'medusa' is missing or no object")
    types = {f.name: type(f.default) for f in fields(MedusaConfig)}
    for key, value in section.items():
        if key not in types:
            raise BundleError(f"{path}: medusa: the key {_shown(key)} is unknown to this version of ssft")
        if type(value) is not types[key]:
            raise BundleError(f"{path}: medusa.{key}={_shown(value)}, expected {types[key].__name__}")
    config = MedusaConfig(**section)
    try:
        config.check_medusa()
    except ConfigError as error:
        raise BundleError(f"{path}: {str(error)[:MAX_SHOWN]}") from error
    return config


def _check_made_for(path: Path, settings: dict[str, Any], adapted: Any, made_over: str) -> None:
    """Raise `BundleError` unless base and LoRA are those that the heads were trained over."""
    base, adapter = settings.get("base"), settings.get("adapter")
    if not isinstance(base, dict) or not isinstance(adapter, dict):
        raise BundleError(f"{path}: 'base' or 'adapter' is missing or no object")
    fingerprint = _fingerprint(adapted)
    for key, meaning in FINGERPRINT.items():
        if base.get(key) != fingerprint[key]:
            raise BundleError(
                f"{path}: made for base {_shown(base.get('id'))}, whose {meaning} ({_shown(base.get(key), 18)}) is not "
                f"that of {fingerprint['id']!r} ({fingerprint[key][:16]}); decode over that base, or train heads for "
                "this one (ssft train with method=medusa)"
            )
    if adapter.get("lora_sha256") != made_over:
        raise BundleError(
            f"{path}: trained over another LoRA (that of {_shown(adapter.get('name'))} then, "
            f"{_shown(adapter.get('lora_sha256'), 18)}), whose states these heads know; decode with that adapter, or "
            f"train heads for {adapted.name!r} (ssft train with method=medusa)"
        )


def _fingerprint(adapted: Any) -> dict[str, str]:
    made_for = {} if adapted.bundle is None else adapted.bundle.base
    name = made_for.get("id") or getattr(adapted.model.config, "_name_or_path", "") or adapted.name
    return base_fingerprint(adapted.model, adapted.tokenizer, name)


def _shown(value: Any, most: int = 80) -> str:
    """A value of a foreign file for a message, which may go to a terminal: without control characters, and bounded."""
    return repr(value)[:most]
