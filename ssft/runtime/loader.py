"""One base with one adapter over it, ready to decode."""

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from peft import PeftModel

from ssft.base.chat import render_prompt
from ssft.base.fingerprint import base_fingerprint
from ssft.base.load import eos_token_ids, load_base
from ssft.bundle.fit import load_stream_modules, read_fitting
from ssft.bundle.format import Bundle
from ssft.bundle.hub import resolve_adapter
from ssft.bundle.lora_config import check_low_rank
from ssft.bundle.read import read_outline
from ssft.decoding.config import TreeConfig
from ssft.decoding.engine import StreamDecoder
from ssft.environment import describe_device
from ssft.errors import ConfigError
from ssft.lora.router import LoraRouter
from ssft.lora.weights import LoraWeights
from ssft.streams.insertion import StreamHooks
from ssft.streams.modules import StreamModules


@dataclass
class AdaptedModel:
    """A causal LM with one adapter (or none), its tokenizer and its streams.

    `model` is the base; its LoRA acts only inside `applied` and in the decoders of `decoder` (where it was merged into
    the base's weights, always).
    """

    model: Any
    tokenizer: Any
    hooks: StreamHooks
    streams: StreamModules | None
    tree: TreeConfig
    name: str
    eos_token_ids: set[int]
    precision: str
    device: str
    bundle: Bundle | None = None
    lora: LoraWeights | None = None
    router: LoraRouter | None = None

    def decoder(self, streaming: bool = True, tree: TreeConfig | None = None) -> StreamDecoder:
        """A decoder with the adapter's own tree unless another is given; plain if `streaming` is False."""
        streams = self.streams if streaming else None
        route = None if self.router is None else self.router.use
        return StreamDecoder(self.hooks, streams, tree or self.tree, route, self.lora)

    def applied(self, batch: int = 1) -> AbstractContextManager[Any]:
        """Inside, a forward or `generate` of the model itself over `batch` rows runs with the LoRA."""
        return nullcontext() if self.router is None else self.router.use([self.lora] * batch)

    def encode(self, row: dict[str, Any]) -> list[int]:
        """A `prompt` or `messages` row -> token ids of its prompt."""
        # A chat template writes its own special tokens.
        return self.tokenizer(render_prompt(row, self.tokenizer), add_special_tokens="messages" not in row)["input_ids"]

    def decode(self, ids: list[int]) -> str:
        """Token ids -> text, without special tokens."""
        return self.tokenizer.decode(ids, skip_special_tokens=True)


def load_adapted(
    adapter: str | Path | None,
    base: str | None = None,
    *,
    dtype: str = "auto",
    quantization: str = "none",
    device: str | None = None,
    merge: bool = False,
) -> AdaptedModel:
    """Load a base and put one adapter over it; `adapter` None decodes the bare base.

    `adapter` is a folder, or else a repository of the hub as owner/name, fetched into the hub's cache. The bundle's
    configs and headers are checked before the base is loaded, its weights are read once they are known to fit. `base`
    defaults to the one the bundle was made for.
    `merge` adds the LoRA into the base's weights: main stream and streams share it (paper §3.2.4, shared mode), so the
    streams stay right, and no pass pays for the low-rank products; a LoRA of the streams' own stays beside them. The
    adapter can then not be taken off again.
    """
    if merge and quantization == "4bit":
        raise ConfigError(
            "merge: 4-bit weights cannot hold a LoRA without being quantised anew, which would change the model; "
            "leave out --merge or take --quantization none"
        )
    folder = None if adapter is None else resolve_adapter(adapter)
    bundle = None if folder is None else read_outline(folder)
    if merge and bundle is not None and bundle.text_lora is None:
        raise ConfigError(
            f"{bundle.path}: merge: the adapter is lossless, its LoRA acts on the streams alone; in the base's weights "
            "it would change the text. Leave out --merge"
        )
    if merge and bundle is not None:
        # peft merges by itself whatever the config asks for, be it modules that it has to import.
        check_low_rank(bundle.loras[0].config_file, bundle.loras[0].config)
    name = base or (bundle.base.get("id") if bundle is not None else None)
    if name is None:
        raise ConfigError(
            f"adapter {str(adapter)!r} does not say which base it was made for; name it with --base"
            if adapter is not None
            else "neither an adapter nor a base was given; name an adapter folder or --base"
        )
    model, tokenizer = load_base(name, dtype=dtype, quantization=quantization, device=device)
    streams, lora, router = None, None, None
    if bundle is not None and folder is not None:
        bundle = read_fitting(folder, model, base_fingerprint(model, tokenizer, name))
        if bundle.stream_config is not None:
            streams = load_stream_modules(bundle, model.config.hidden_size).to(model.device)
        if merge:
            model = _merged(model, bundle)
        if not merge or bundle.streams_own_lora is not None:
            lora, router = LoraWeights.from_bundle(bundle, model, merged=merge), LoraRouter(model)
        bundle.release()
    model.eval()
    return AdaptedModel(
        model=model,
        tokenizer=tokenizer,
        hooks=StreamHooks(model),
        streams=streams,
        tree=TreeConfig() if bundle is None else bundle.tree,
        name=Path(adapter).resolve().name if adapter is not None else "base",
        eos_token_ids=eos_token_ids(model, tokenizer),
        precision="4bit" if quantization == "4bit" else str(model.dtype).removeprefix("torch."),
        device=describe_device(model.device),
        bundle=bundle,
        lora=lora,
        router=router,
    )


def _merged(model: Any, bundle: Bundle) -> Any:
    """The base with the LoRA added into its weights."""
    model = PeftModel.from_pretrained(model, str(bundle.path), autocast_adapter_dtype=False)
    return model.merge_and_unload()
