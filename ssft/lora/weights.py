"""`LoraWeights`: the tensors of one adapter as they stay in memory, with the arithmetic that peft gives its folder.

    out += scaling · (x @ down.T) @ up.T        x [.., in], down = A [r, in], up = B [out, r]

All tensors of an adapter that belong on one device are views of one flat buffer: moving an adapter is one copy, and
dropping it gives one block back. They have the type that products of few rows are fastest in: float32 on a CPU, the
model's own elsewhere. What this sum cannot express is refused before anything is allocated.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import reduce
from math import prod
from typing import Any

import torch
from torch import Tensor, nn

from ssft.base.kernels.linears import columns_of, packed_device
from ssft.bundle.fit import linear_of, lora_pairs
from ssft.bundle.folder import all_finite
from ssft.bundle.format import Bundle, LoraPart
from ssft.bundle.lora_config import check_low_rank, lora_scaling, lora_targets
from ssft.errors import BundleError
from ssft.lora.stacked import StackedLora

Key = tuple[str, bool]
"""Of a layer: the module's name in the base, and whether stream rows alone run with it."""


@dataclass(slots=True)
class LoraLayer:
    """The LoRA of one linear module: down (A) [r, in], up (B) [out, r]."""

    down: Tensor
    up: Tensor
    scaling: float

    def product(self, x: Tensor) -> Tensor:
        """scaling · (x Aᵀ) Bᵀ: x [.., in] -> [.., out], in the type of x."""
        return (x @ self.down.to(x.dtype).T @ self.up.to(x.dtype).T) * self.scaling


@dataclass(slots=True, eq=False)
class LoraWeights:
    """The LoRA of one adapter, and the one of its streams' own where there is one (paper §3.2.4, lossless).

    keyed: all layers. dtype: of all tensors. buffers: one flat tensor per device of the base, of which the layers are
    views; groups: the keys of the layers in each of them. layers: what every row runs with, by the module's name in the
    base; stream_layers: what stream rows run with on top of that. stacks: what `stacked` made of them.
    """

    keyed: dict[Key, LoraLayer]
    dtype: torch.dtype
    buffers: list[Tensor]
    groups: list[list[Key]]
    layers: dict[str, LoraLayer] = field(init=False)
    stream_layers: dict[str, LoraLayer] = field(init=False)
    stacks: dict[tuple[tuple[str, ...], bool], StackedLora | None] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        self.layers = {name: layer for (name, streams), layer in self.keyed.items() if not streams}
        self.stream_layers = {name: layer for (name, streams), layer in self.keyed.items() if streams}

    def stacked(
        self, names: tuple[str, ...], bounds: Sequence[tuple[int, int]], streams: bool = False
    ) -> StackedLora | None:
        """What the modules `names`, whose columns of a common output are `bounds`, add together; None: nothing.

        `streams`: what stream rows add on top.
        """
        key = (names, streams)
        if key not in self.stacks:
            layers = self.stream_layers if streams else self.layers
            own = ((columns, layers.get(name)) for name, columns in zip(names, bounds, strict=True))
            found = [(columns, layer.down, layer.up, layer.scaling) for columns, layer in own if layer is not None]
            self.stacks[key] = StackedLora(found, bounds[-1][1]) if found else None
        return self.stacks[key]

    @property
    def nbytes(self) -> int:
        """Bytes of the tensors."""
        return sum(buffer.nbytes for buffer in self.buffers)

    @classmethod
    def from_bundle(cls, bundle: Bundle, model: Any, merged: bool = False) -> "LoraWeights":
        """Copy the LoRA of a bundle next to the modules of `model` that it adapts; nothing of the bundle is kept.

        `merged`: the weights of `model` hold the text's LoRA already, and only the streams' own is taken. Raises
        `BundleError` for what the low-rank sum cannot express, and for a LoRA on other modules than peft would adapt.
        """
        for part in bundle.loras:
            check_low_rank(part.config_file, part.config)
        parts = ((False, None if merged else bundle.text_lora), (True, bundle.streams_own_lora))
        layers = {(name, own): layer for own, part in parts for name, layer in _layers(part, model).items()}
        types = {t.dtype for layer in layers.values() for t in (layer.down, layer.up)} or {model.dtype}
        held = reduce(torch.promote_types, types)
        # The dtype of 4-bit weights says nothing: model.dtype is that of the first floating-point parameter.
        dtype = torch.float32 if model.device.type == "cpu" else model.dtype
        weights = _pack(layers, model, dtype)
        if model.dtype != held and not all(all_finite(buffer.to(model.dtype)) for buffer in weights.buffers):
            raise BundleError(
                f"{bundle.loras[0].weights_file}: holds values of {held} beyond the range of {model.dtype}, in which "
                "the base computes; load the base with --dtype bfloat16 or float32"
            )
        return weights.to_devices(model)

    def to_host(self) -> "LoraWeights":
        """A copy on the CPU, equal in every bit; itself if it is there."""
        return self._moved([torch.device("cpu")] * len(self.buffers))

    def to_devices(self, model: Any) -> "LoraWeights":
        """A copy next to the modules of `model`, equal in every bit; itself if it is there."""
        devices = [{device_of(model, name) for name, _ in group} for group in self.groups]
        if any(len(found) > 1 for found in devices):  # the model was spread over devices anew
            return _pack(self.keyed, model, self.dtype).to_devices(model)
        return self._moved([found.pop() for found in devices])

    def _moved(self, devices: list[torch.device]) -> "LoraWeights":
        buffers = [buffer.to(device) for buffer, device in zip(self.buffers, devices, strict=True)]
        if all(new is old for new, old in zip(buffers, self.buffers, strict=True)):
            return self
        home = {key: buffer for group, buffer in zip(self.groups, buffers, strict=True) for key in group}
        layers = {}
        for key, layer in self.keyed.items():
            down, up = (home[key].as_strided(t.shape, t.stride(), t.storage_offset()) for t in (layer.down, layer.up))
            layers[key] = LoraLayer(down, up, layer.scaling)
        return LoraWeights(layers, self.dtype, buffers, self.groups)


def product_hook(layer: LoraLayer, dtype: torch.dtype) -> Any:
    """A forward hook that adds the layer's product to every row, computed in `dtype`, the model's own type.

    Never in place and without a context, so that autograd and compilers can follow it.
    """
    own = LoraLayer(layer.down.to(dtype), layer.up.to(dtype), layer.scaling)

    def hook(_module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
        return output + own.product(args[0]).to(output.dtype)

    return hook


def device_of(model: nn.Module, name: str) -> torch.device:
    """The device that module `name` computes on."""
    module: Any = linear_of(model, name)
    device = packed_device(module) or module.weight.device
    if device.type != "meta":
        return device
    # accelerate keeps offloaded weights on no device, and brings them to this one for every pass.
    place = getattr(getattr(module, "_hf_hook", None), "execution_device", None)
    if place is None:
        raise BundleError(f"the base's {name} has no weights (device meta); load them before its adapters")
    return torch.device(place)


def _layers(part: LoraPart | None, model: Any) -> dict[str, LoraLayer]:
    """The layers of one LoRA by their modules' names, exactly those that peft would adapt; none of no LoRA."""
    if part is None:
        return {}
    config, file = part.config_file, part.weights_file
    pairs, targets = lora_pairs(part, model), lora_targets(config, part.config, model)
    for name in sorted(pairs.keys() - targets):
        raise BundleError(
            f"{file}: holds a LoRA of {name}, which {config.name} (target_modules, exclude_modules, "
            "layers_to_transform) does not target; peft would ignore it. Name it there, or leave it out of the file"
        )
    for name in sorted(targets - pairs.keys()):
        raise BundleError(
            f"{file}: has no LoRA of {name}, which {config.name} targets; the file is incomplete (peft would decode "
            "with a fresh one). Exclude the module there if it has none"
        )
    return {
        name: LoraLayer(pair["lora_A"], pair["lora_B"], lora_scaling(part.config, name)) for name, pair in pairs.items()
    }


def _pack(layers: dict[Key, LoraLayer], model: Any, dtype: torch.dtype) -> LoraWeights:
    """Copies on the CPU, in one buffer per device of `model`."""
    groups: dict[torch.device, list[Key]] = {}
    for key in layers:
        groups.setdefault(device_of(model, key[0]), []).append(key)
    packed = {key: LoraLayer(layer.down, layer.up, layer.scaling) for key, layer in layers.items()}
    buffers = []
    for keys in groups.values():
        # All A before all B, in the order of the modules: those of q, k and v are then one matrix, and so are their B,
        # each in columns of its own (`StackedLora`).
        shapes: dict[Any, tuple[int, int]] = {key: (len(layers[key].down), layers[key].down.shape[1]) for key in keys}
        homes = {}
        for key in keys:
            owner, column, width = columns_of(linear_of(model, key[0]))
            block = (id(owner), key[1])
            row = shapes.get(block, (0, 0))[0]
            homes[key] = (block, row, column)
            shapes[block] = (row + len(layers[key].down), width)
        # Matrices whose bytes fill no whole blocks of 16 go last: all others then start where GPU kernels load fastest.
        names = sorted(shapes, key=lambda name: prod(shapes[name]) * dtype.itemsize % 16 != 0)
        buffer = torch.zeros(sum(map(prod, shapes.values())), dtype=dtype)
        flat = buffer.split([prod(shapes[name]) for name in names])
        matrices = {name: part.view(shapes[name]) for name, part in zip(names, flat, strict=True)}
        for key in keys:
            block, row, column = homes[key]
            old, new = layers[key], packed[key]
            new.down = matrices[key].copy_(old.down)
            new.up = matrices[block][row : row + old.up.shape[1], column : column + old.up.shape[0]].copy_(old.up.T).T
        buffers.append(buffer)
    return LoraWeights(packed, dtype, buffers, list(groups.values()))
