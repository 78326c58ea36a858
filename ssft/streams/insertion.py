"""Forward hooks that insert streams at layer N−N_s and take them out after layer N (paper §3.2.1).

Below the insertion layer nothing changes. At it, a pre-hook lengthens the hidden states to `[main | streams]`; every
layer from there up gets matching positions and the plan itself as a keyword, which its attention reads
(`attention.py`). After the last layer a hook cuts the streams off again and leaves them in the plan, so that final
norm, head and loss of the model see what they always saw.
"""

from typing import Any

import torch
from torch import Tensor, nn

from ssft.base.anatomy import layer_keywords
from ssft.base.backbone import Backbone
from ssft.errors import GenerationError, UnsupportedArchitectureError
from ssft.streams.attention import IMPLEMENTATION, dense_mask
from ssft.streams.mixed import MixedStreams
from ssft.streams.passes import current_pass
from ssft.streams.plan import StreamPlan


class StreamHooks:
    """Hooks on every layer of one model; outside of a pass with a plan each of them returns at once.

    >>> hooks = StreamHooks(model)
    >>> with announced(Pass(plan)):
    ...     model(input_ids=ids)
    >>> plan.streams          # [B, S·g, h]
    """

    def __init__(self, model: nn.Module) -> None:
        self.backbone = Backbone(model)
        self.previous_attention = self.backbone.config._attn_implementation
        if self.backbone.anatomy.interface:
            self.backbone.model.set_attn_implementation(IMPLEMENTATION)
        self.attention = self.backbone.config._attn_implementation
        self._handles: list[Any] = []
        for index, layer in enumerate(self.backbone.layers):
            self._handles.append(layer.register_forward_pre_hook(self._enter(index), with_kwargs=True))
        self._handles.append(self.backbone.layers[-1].register_forward_hook(self._leave))

    def check(self) -> None:
        """Raise `GenerationError` unless the model is still one that a decoding pass can run on.

        Somebody may have changed it since: the hooks were taken off, attention was set to another implementation, or
        the model was put into training with activation checkpointing, under which layers get no cache.
        """
        if not self._handles:
            raise GenerationError(
                "the base was unloaded from this object, which decodes nothing any more; make a new one over the base"
            )
        if (found := self.backbone.config._attn_implementation) != self.attention:
            raise GenerationError(
                f"the model's attention implementation is {found!r} now, but streams need {self.attention!r}, "
                f"which was set when they were put on; call model.set_attn_implementation({self.attention!r})"
            )
        if any(layer.training and getattr(layer, "gradient_checkpointing", False) for layer in self.backbone.layers):
            raise GenerationError(
                "the model is in training with activation checkpointing, under which layers keep no cache; call "
                "model.eval() before decoding"
            )

    def remove(self) -> None:
        """Take the hooks off; the model is then what it was before."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self.backbone.model.set_attn_implementation(self.previous_attention)

    def _enter(self, index: int) -> Any:
        def pre_hook(layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            now = current_pass()
            if now is None:
                return None
            hidden: Tensor = args[0]
            kwargs = layer_keywords(layer, args, kwargs)
            # Streams whose N_s is the number of layers from here up start here.
            layers = self.backbone.num_layers - index
            plan = now.plan
            if plan is None or layers > plan.modules.msa_layers[0]:
                masks = now.masks
            else:
                if layers in plan.modules.msa_layers:
                    hidden = self._insert(plan, hidden, kwargs, layers)
                masks = plan.masks
                kwargs |= self._lengthened(plan, index, hidden, kwargs)
                if self.backbone.anatomy.interface:
                    kwargs["stream_plan"] = plan
                elif not masks:
                    kwargs["attention_mask"] = dense_mask(plan, kwargs["attention_mask"], hidden.dtype)
            if masks:
                kwargs["attention_mask"] = masks[self.backbone.windows[index]]
            return (hidden,), kwargs

        return pre_hook

    def _insert(self, plan: StreamPlan, hidden: Tensor, kwargs: dict[str, Any], layers: int) -> Tensor:
        """Put the streams that start here beside (or, in a mixed batch, into) hidden [B, R(+S·g), h], and drop rows.

        Rows are dropped where the last streams start: there every row of a mixed batch was judged in its own layer.
        """
        if plan.modules.rotates and not self.backbone.anatomy.interface:
            raise UnsupportedArchitectureError(
                f"{self.backbone.config.model_type} hands no keyword on to its attention, which so cannot turn the "
                "values of streams; take the identifier 'embedding' instead of 'rotation'"
            )
        if plan.frozen_main:
            # With activation checkpointing gradients begin at the embeddings; what the layers below keep goes here.
            hidden = hidden.detach()
        width = plan.sources.unsqueeze(-1).expand(-1, -1, hidden.shape[-1])
        main = hidden.gather(1, width)
        if layers == plan.modules.msa_layers[0]:
            plan.num_main, plan.entered = hidden.shape[1], main
            streams = plan.modules.insert(main, plan.num_streams)
        else:
            assert isinstance(plan.modules, MixedStreams)
            streams = hidden[:, plan.num_main :].clone()
            plan.modules.restart(streams, main, plan.num_streams, layers)
        rows = hidden[:, : plan.num_main]
        hidden = torch.cat((rows, streams), dim=1)
        left = None if plan.prune is None else plan.prune(layers, rows)
        return hidden if left is None else plan.drop(left, hidden)

    def _lengthened(self, plan: StreamPlan, index: int, hidden: Tensor, kwargs: dict[str, Any]) -> dict[str, Any]:
        """What a layer gets instead of the model's own positions: theirs and the streams'.

        Layers with the same position embeddings share one tensor per pass; Gemma 3's have two kinds.
        """
        if kwargs.get("position_ids") is None:
            return {}
        rotary = self.backbone.anatomy.rotary[index]
        if rotary not in plan.layer_kwargs:
            rows = hidden.shape[0]
            main = plan.of_main(kwargs["position_ids"].expand(rows, -1).unsqueeze(-1)).squeeze(-1)
            # Beyond the context's end a draft is never reached; there 'dynamic' frequencies would change for all.
            positions = plan.positions(main).clamp(max=self.backbone.context_length - 1)
            plan.layer_kwargs[rotary] = {"position_ids": torch.cat((main, positions), dim=1)}
            if rotary is not None:
                # The main rows keep the very tensors that the model computed for them.
                plan.layer_kwargs[rotary][rotary.keyword] = tuple(
                    torch.cat((plan.of_main(own.expand(rows, -1, -1)), stream), dim=1)
                    for own, stream in zip(
                        kwargs[rotary.keyword], rotary(self.backbone.decoder, hidden, positions), strict=True
                    )
                )
        return plan.layer_kwargs[rotary]

    def _leave(self, _layer: nn.Module, _args: Any, output: Any) -> Any:
        now = current_pass()
        if now is None or (plan := now.plan) is None:
            return None
        hidden = output[0] if isinstance(output, tuple) else output
        plan.main, plan.streams = hidden[:, : plan.num_main], hidden[:, plan.num_main :]
        # A model may give its states the shape of its ids again (GPT-2).
        main = plan.in_place(plan.main)
        return (main, *output[1:]) if isinstance(output, tuple) else main
