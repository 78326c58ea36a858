"""`Anatomy`: where a causal LM has its layers, last norm, positions and windows, read from one pass over two tokens.

The pass runs with an attention and a mask function of our own, which note what the model gives them. So nothing is told
per architecture: what a layer is called with, in which order modules run, and which window each layer's mask has are
facts about the model that is loaded. A model whose forward is not that of a plain decoder is refused with the reason.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from inspect import Parameter, signature
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from transformers import AttentionInterface
from transformers.cache_utils import Cache
from transformers.masking_utils import AttentionMaskInterface

from ssft.errors import UnsupportedArchitectureError

PROBE = "ssft_probe"


@dataclass(frozen=True)
class Rotary:
    """How the decoder makes the position embeddings that it hands to a layer as the keyword `keyword`.

    module: name under the decoder; arguments, named: what it was called with, in which `HIDDEN` and `POSITIONS` stand
    for the states and the positions.
    """

    keyword: str
    module: str
    arguments: tuple[Any, ...]
    named: tuple[tuple[str, Any], ...]

    def __call__(self, decoder: nn.Module, hidden: Tensor, positions: Tensor) -> Any:
        """The embeddings of positions [B, T], as tensors whose second dimension from the end is T."""
        stand_ins = {HIDDEN: hidden, POSITIONS: positions}

        def real(value: Any) -> Any:
            return stand_ins.get(value, value) if isinstance(value, str) else value

        arguments, named = map(real, self.arguments), {name: real(value) for name, value in self.named}
        with torch.no_grad():
            return decoder.get_submodule(self.module)(*arguments, **named)


HIDDEN, POSITIONS = "<hidden>", "<positions>"


@dataclass(frozen=True)
class Anatomy:
    """Parts of one decoder by their names under it, and what each of its N layers is given.

    layers: the module list. finish: modules that run one after the other on the last layer's output. windows [N]:
    tokens that a layer's row sees of its past, itself included; None: all. rotary [N]: None where a layer gets no
    position embeddings. heads, width: of the keys and values. interface: whether a keyword for a layer reaches
    transformers' `AttentionInterface`; where it does not, the mask that the layer is given does (Falcon, StableLM).
    """

    layers: str
    finish: tuple[str, ...]
    windows: tuple[int | None, ...]
    rotary: tuple[Rotary | None, ...]
    heads: int
    width: int
    interface: bool


def anatomy_of(model: Any) -> Anatomy:
    """What one pass of `model`, a causal LM of transformers without peft around it, shows; known afterwards.

    Raises:
        UnsupportedArchitectureError: the model is no decoder that streams can enter; says what stands in the way.
    """
    if model not in _KNOWN:
        _KNOWN[model] = _observe(model)
    return _KNOWN[model]


_KNOWN: WeakKeyDictionary[nn.Module, Anatomy] = WeakKeyDictionary()


@dataclass
class _Notes:
    """What the pass leaves: per layer its input, keywords and output, the tensors that attention got and the shapes of
    keys and values; calls of other modules; masks; how many layers' attention got the keyword `stream_plan`."""

    inputs: dict[int, Tensor] = field(default_factory=dict)
    keywords: dict[int, dict[str, Any]] = field(default_factory=dict)
    outputs: dict[int, Tensor] = field(default_factory=dict)
    attention: dict[int, list[str]] = field(default_factory=dict)
    caches: dict[int, list[tuple[torch.Size, torch.Size]]] = field(default_factory=dict)
    calls: list[tuple[str, tuple[Any, ...], dict[str, Any], Any]] = field(default_factory=list)
    masks: list[tuple[Tensor, int | None, Any]] = field(default_factory=list)
    reached: int = 0
    layer: int = -1


_NOTES: list[_Notes] = []


def _probe_attention(
    _module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Any = None, **kwargs: Any
) -> tuple[Tensor, None]:
    """In the place of attention; named like transformers' own, since some models hand the mask over by its name."""
    notes = _NOTES[-1]
    notes.reached += kwargs.pop("stream_plan", None) is notes
    tensors = [name for name, given in kwargs.items() if isinstance(given, Tensor)]
    notes.attention.setdefault(notes.layer, []).extend(tensors)
    return query.new_zeros(query.shape[0], query.shape[2], query.shape[1], value.shape[3]), None


def _probe_mask(
    batch_size: int, q_length: int, kv_length: int, mask_function: Any = None, local_size: int | None = None, **_: Any
) -> Tensor:
    mask = torch.zeros(batch_size, 1, q_length, kv_length)
    _NOTES[-1].masks.append((mask, local_size, mask_function))
    return mask


class _ProbeCache(Cache):
    """An empty cache that notes what is written into it."""

    def __init__(self) -> None:
        super().__init__(layers=[])

    def get_seq_length(self, layer_idx: int = 0) -> int:
        return 0

    def get_mask_sizes(self, query_length: int, layer_idx: int) -> tuple[int, int]:
        return query_length, 0

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        notes = _NOTES[-1]
        notes.caches.setdefault(notes.layer, []).append((key_states.shape, value_states.shape))
        return key_states, value_states


AttentionInterface.register(PROBE, _probe_attention)
AttentionMaskInterface.register(PROBE, _probe_mask)


def _observe(model: Any) -> Anatomy:
    name = getattr(getattr(model, "config", None), "model_type", type(model).__name__)

    def refuse(what: str) -> UnsupportedArchitectureError:
        return UnsupportedArchitectureError(f"architecture {name!r} has no stream support: {what}")

    if getattr(model.config, "is_encoder_decoder", False):
        raise refuse("it is an encoder-decoder, and streams continue the one sequence of a decoder")
    if model.get_output_embeddings() is None:
        raise refuse("it has no language-model head")
    decoder = model.get_decoder()
    lists = [(n, m) for n, m in decoder.named_modules() if isinstance(m, nn.ModuleList)]
    if not lists:
        raise refuse("its decoder has no list of layers")
    layers_name, layers = max(lists, key=lambda item: len(item[1]))
    positions = torch.arange(2, device=model.device).unsqueeze(0)
    notes = _Notes()
    try:
        with _noting(notes, model, decoder, layers_name, layers), torch.no_grad():
            result = decoder(
                input_ids=torch.zeros_like(positions),
                position_ids=positions,
                past_key_values=_ProbeCache(),
                use_cache=True,
            )
            last: Tensor = result.last_hidden_state
    except (TypeError, ValueError, AttributeError, RuntimeError, KeyError, IndexError) as error:
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        raise refuse(f"its decoder does not run on token ids and positions ({reason})") from error
    order = range(len(layers))
    if sorted(notes.inputs) != list(order) or any(notes.inputs[i] is not notes.outputs[i - 1] for i in order[1:]):
        raise refuse(f"its {len(layers)} layers do not run one after the other on one hidden state")
    for i in order:
        if len(notes.caches.get(i, [])) != 1:
            raise refuse(
                f"layer {i} ({type(layers[i]).__name__}) writes {len(notes.caches.get(i, []))} times into the cache of "
                "keys and values, where a layer of attention does once"
            )
        if odd := sorted(name for name in notes.attention.get(i, []) if name != "position_ids"):
            raise refuse(f"layer {i} gives attention the tensor {odd[0]!r}, which stream rows would not have")
    if len({cache[0] for cache in notes.caches.values()}) > 1:
        raise refuse("keys and values differ in their heads or widths from layer to layer")
    key, value = notes.caches[0][0]
    if key != value:
        raise refuse(f"its keys are {key[-1]} wide and its values {value[-1]}, which do not fit into one cache")
    return Anatomy(
        layers=layers_name,
        finish=_finish(notes, notes.outputs[len(layers) - 1], last, refuse),
        rotary=tuple(_rotary(notes, notes.keywords[i], positions, i, refuse) for i in order),
        windows=tuple(_window(notes, notes.keywords[i].get("attention_mask"), i, refuse) for i in order),
        heads=key[1],
        width=key[3],
        interface=notes.reached == len(layers),
    )


@contextmanager
def _noting(notes: _Notes, model: Any, decoder: Any, layers_name: str, layers: nn.ModuleList) -> Iterator[None]:
    """Hooks and attention that fill `notes`; afterwards the model is what it was."""
    handles = []
    for index, layer in enumerate(layers):
        handles.append(layer.register_forward_pre_hook(_before_layer(notes, index), with_kwargs=True))
        handles.append(layer.register_forward_hook(_after_layer(notes, index)))
    for name, child in decoder.named_children():
        if name != layers_name.split(".")[0]:
            handles.append(child.register_forward_hook(_after_module(notes, name), with_kwargs=True))
    attention = decoder.config._attn_implementation
    # In evaluation bitsandbytes packs 4-bit weights for good, which a model that is about to be trained cannot have;
    # under activation checkpointing layers get no cache.
    modes = [(vars(m), vars(m).copy()) for m in model.modules()]
    _NOTES.append(notes)
    try:
        for now, before in modes:
            now |= {name: name == "training" for name in ("training", "gradient_checkpointing") if name in before}
        decoder.config._attn_implementation = PROBE
        yield
    finally:
        _NOTES.pop()
        decoder.config._attn_implementation = attention
        for now, before in modes:
            now |= {name: before[name] for name in ("training", "gradient_checkpointing") if name in before}
        for handle in handles:
            handle.remove()


def layer_keywords(layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """All that a layer is called with beside its hidden state, by name, however the decoder passes it."""
    # Not strict: most of what a layer takes comes by keyword.
    return {**dict(zip(_parameters(type(layer).forward), args[1:], strict=False)), **kwargs}


@cache
def _parameters(forward: Callable[..., Any]) -> list[str]:
    """Names of what a layer's `forward` takes after itself and the hidden state."""
    return list(signature(forward).parameters)[2:]


def _before_layer(notes: _Notes, index: int) -> Any:
    def hook(layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        notes.layer = index
        notes.inputs[index] = args[0]
        notes.keywords[index] = layer_keywords(layer, args, kwargs)
        takes_any = any(p.kind is Parameter.VAR_KEYWORD for p in signature(type(layer).forward).parameters.values())
        return (args, {**kwargs, "stream_plan": notes}) if takes_any else None

    return hook


def _after_layer(notes: _Notes, index: int) -> Any:
    def hook(_layer: nn.Module, _args: Any, output: Any) -> None:
        notes.outputs[index] = output[0] if isinstance(output, tuple) else output

    return hook


def _after_module(notes: _Notes, name: str) -> Any:
    def hook(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        notes.calls.append((name, args, kwargs, output))

    return hook


def _finish(notes: _Notes, state: Tensor, last: Tensor, refuse: Any) -> tuple[str, ...]:
    """The modules that turn the last layer's output into what the head reads."""
    names = []
    for name, args, _, output in notes.calls:
        if args and args[0] is state:
            names.append(name)
            state = output
    if state.shape != last.shape or not torch.equal(state, last):
        raise refuse(f"what it does after its last layer is more than the modules {names}")
    return tuple(names)


def _window(notes: _Notes, mask: Any, index: int, refuse: Any) -> int | None:
    """The window of the mask that a layer was given; its rule is tried out on some rows."""
    made = [(window, rule) for own, window, rule in notes.masks if own is mask]
    if not made:
        raise refuse(f"layer {index} gets no mask that transformers' mask functions made")
    window, rule = made[0]
    zero = torch.tensor(0)
    for row in (0, 1, 7, (window or 1) - 1, window or 1, 3 * (window or 1) + 1):
        keys = torch.arange(row + 2)
        expected = (keys <= row) & (keys > row - (window or row + 1))
        if not torch.equal(torch.as_tensor(rule(zero, zero, torch.tensor(row), keys)).expand(row + 2), expected):
            raise refuse(f"row {row} of layer {index} sees other tokens than those before it, or a window of them")
    return window


def _rotary(notes: _Notes, keywords: dict[str, Any], positions: Tensor, index: int, refuse: Any) -> Rotary | None:
    """How the position embeddings came about that a layer was given; refuses any other tensor of its."""
    found = None
    for keyword, value in keywords.items():
        parts = value if isinstance(value, (tuple, list)) else (value,)
        if keyword in ("attention_mask", "position_ids") or not any(isinstance(part, Tensor) for part in parts):
            continue
        made = [call for call in notes.calls if isinstance(call[3], tuple) and _same(call[3], parts)]
        if len(made) != 1 or found is not None or "position_ids" not in keywords:
            raise refuse(f"layer {index} is given {keyword!r}, of which it is not known what a stream's would be")
        ((module, args, named, _),) = made
        arguments = tuple(_sign(value, positions) for value in args)
        found = Rotary(keyword, module, arguments, tuple((name, _sign(v, positions)) for name, v in named.items()))
        if POSITIONS not in (*found.arguments, *dict(found.named).values()):
            raise refuse(f"its {module} is not given the positions")
    return found


def _same(made: Sequence[Any], given: Sequence[Any]) -> bool:
    """Whether the parts of two tuples are the very same objects."""
    return list(map(id, made)) == list(map(id, given))


def _sign(value: Any, positions: Tensor) -> Any:
    """What stands in a `Rotary` for an argument that the module was called with."""
    if not isinstance(value, Tensor):
        return value
    return HIDDEN if value.is_floating_point() else POSITIONS if torch.equal(value, positions) else value
