"""What decoding with streams needs of a model that is somebody else's: a `PeftModel` with the bundle's LoRA in it."""

from types import SimpleNamespace
from typing import Any

import torch
from peft.tuners import lora as peft_lora

from ssft.base.backbone import Backbone
from ssft.base.fingerprint import base_fingerprint
from ssft.bundle.fit import lora_pairs
from ssft.bundle.format import Bundle
from ssft.bundle.lora_config import lora_scaling, lora_target
from ssft.bundle.vocabulary import vocabulary_for
from ssft.decoding.draft.vocabulary import DraftVocabulary
from ssft.errors import GenerationError
from ssft.lora.router import LoraRouter, router_on
from ssft.lora.vocabulary import draft_vocabulary
from ssft.lora.weights import LoraLayer, LoraWeights
from ssft.runtime.selfcheck import require_support
from ssft.streams.insertion import StreamHooks


def fingerprint_of(base: Any, bundle: Bundle, tokenizer: Any) -> dict[str, str]:
    """The base as the bundle knows it; without a tokenizer that part counts as equal."""
    name = getattr(base.config, "_name_or_path", "") or type(base).__name__
    if tokenizer is not None:
        return base_fingerprint(base, tokenizer, name)
    fingerprint = base_fingerprint(base, SimpleNamespace(added_tokens_decoder={}, get_vocab=dict), name)
    return {**fingerprint, "tokenizer_sha256": bundle.base["tokenizer_sha256"]}


def hooks_on(base: Any) -> StreamHooks:
    """The stream hooks that are on the model already (a second set would insert the streams twice), or new ones."""
    for hook in Backbone(base).layers[-1]._forward_hooks.values():
        owner = getattr(hook, "__self__", None)
        if isinstance(owner, StreamHooks):
            return owner
    require_support(base)
    return StreamHooks(base)


def own_lora(base: Any, bundle: Bundle) -> LoraWeights | None:
    """The LoRA of the streams' own for rows of `base`, inside the `PeftModel`; None where there is none.

    peft applies the text's LoRA; this one reaches stream rows only, by a router on the base.
    """
    if bundle.streams_own_lora is None:
        return None
    if router_on(base) is None:
        LoraRouter(base)
    return LoraWeights.from_bundle(bundle, base, merged=True)


def drafts_from(base: Any, bundle: Bundle) -> DraftVocabulary | None:
    """The token ids that the bundle's streams guess from, with rows of the head as the bundle's LoRA makes them."""
    part = bundle.text_lora
    assert part is not None
    layers = {
        name: LoraLayer(pair["lora_A"], pair["lora_B"], lora_scaling(part.config, name))
        for name, pair in lora_pairs(part, base).items()
    }
    return draft_vocabulary(base, vocabulary_for(bundle, base.config.vocab_size), layers)


def check_lora(base: Any, bundle: Bundle) -> None:
    """Raise unless exactly the bundle's LoRA is active in `base`, the model inside the `PeftModel`."""
    layers = {name: module for name, module in base.named_modules() if isinstance(module, peft_lora.LoraLayer)}
    path = str(bundle.path)
    active = sorted({name for layer in layers.values() for name in layer.active_adapters})
    fitting = [n for n in sorted({n for x in layers.values() for n in x.lora_A}) if _is_lora(layers, bundle, n)]
    if not layers:
        state = "has no LoRA layers (a bare base, or one with a LoRA merged and unloaded)"
        knob = f"PeftModel.from_pretrained(base, {path!r})"
    elif any(layer.merged for layer in layers.values()):
        state, knob = "has a LoRA merged into its weights, which may be any", "unmerge_adapter()"
    elif any(layer.disable_adapters for layer in layers.values()):
        state, knob = "has its LoRA disabled", "enable_adapter_layers()"
    elif len(active) != 1 or active[0] not in fitting:
        state = f"has the active adapter {', '.join(active) or '(none)'}, which is another one"
        knob = f"set_adapter({fitting[0]!r})" if fitting else f"load_adapter({path!r}, ...) and set_adapter"
    else:
        return
    raise GenerationError(
        f"the model {state}, but the streams of {path} were trained together with its LoRA and draft for its text; "
        f"call {knob} first"
    )


def _is_lora(layers: dict[str, Any], bundle: Bundle, name: str) -> bool:
    """Whether the adapter `name` has the bundle's weights, up to the rounding of a narrower type."""
    lora = bundle.loras[0]  # what plain peft loads
    for key, saved in lora.weights.items():
        module, kind = lora_target(lora.weights_file, key)
        weights = getattr(layers.get(module), kind, {})
        if name not in weights or weights[name].weight.shape != saved.shape:
            return False
        loaded = weights[name].weight.detach().float()
        if not torch.allclose(loaded, saved.to(loaded), rtol=1e-2, atol=1e-5):
            return False
    return True
