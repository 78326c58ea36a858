"""`model.generate` of transformers with a static cache and its own `torch.compile` of the decoding step.

The step is compiled for one shape: rows are filled up to the batch size, and the cache has one length, rounded up
from the longest prompt with its answer so far. So compilation happens in the warm-up, if that meets the longest
prompt. transformers itself compiles on a CPU only when told to, which is done here.
"""

import copy
import itertools
from typing import Any

import torch
from torch import Tensor, nn
from torch._dynamo.exc import FailOnRecompileLimitHit, TorchDynamoException
from transformers import CompileConfig

from ssft.bench.methods import Setting, _transformers
from ssft.decoding.request import Generation
from ssft.errors import ConfigError, GenerationError
from ssft.lora.weights import product_hook

NAME = "generate_static"
DESCRIPTION = "model.generate of transformers, greedy, static cache and compiled step"
KIND = "plain"
LOSSLESS = True

LENGTHS = 256
"""The cache's length in tokens is a multiple of this."""

BACKEND = "inductor"
"""What `torch.compile` hands the traced step to; transformers' own default."""


class Method(_transformers.GenerateMethod):
    """Greedy search over a copy of the model that shares all its weights; calls == tokens.

    The copy is there because the hooks of the streams and of the LoRA read context variables, at which the compiler
    would cut the step into hundreds of pieces. On the copy the LoRA's products are fixed to their modules instead.
    """

    def __init__(self, setting: Setting) -> None:
        super().__init__(setting)
        model = self.backbone.model
        quantizer = getattr(model, "hf_quantizer", None)
        if quantizer is not None and not quantizer.is_compileable:
            raise ConfigError(
                f"{NAME}: transformers does not compile a model in {self.adapted.precision}; take --quantization none, "
                f"or leave {NAME} out of --methods"
            )
        self.bare = _without_hooks(model)
        self.bare.set_attn_implementation(self.adapted.hooks.previous_attention)
        lora = self.adapted.active.lora
        # What acts on streams alone is left out: there are none here.
        for name, layer in lora.layers.items() if lora is not None else ():
            self.bare.get_submodule(name).register_forward_hook(product_hook(layer, self.bare.dtype))
        self.length = 0
        # What was compiled for another model is of no use, and counts against the compiler's limit of variants.
        torch.compiler.reset()

    def _settings(self, prompts: list[list[int]], budget: int) -> dict[str, Any]:
        needed = max(len(prompt) for prompt in prompts) + budget
        self.length = max(self.length, -(-needed // LENGTHS) * LENGTHS)
        # The cache's shapes are all there is; without `dynamic=False` a second length would be compiled for any length.
        compiling = CompileConfig(fullgraph=True, dynamic=False, backend=BACKEND)
        compiling._compile_all_devices = True  # type: ignore[assignment]  # declared as None
        return {"cache_implementation": "static", "max_cache_len": self.length, "compile_config": compiling}

    def _batch(self, prompts: list[list[int]], budget: int) -> list[Generation]:
        # Copies of the last row end when it does.
        filled = prompts + [prompts[-1]] * (self.batch_size - len(prompts))
        return super()._batch(filled, budget)[: len(prompts)]

    def _generate(self, _rows: int, arguments: dict[str, Any]) -> Tensor:
        # Beyond its limit of variants the compiler would fall back to uncompiled steps without a word.
        with torch._dynamo.config.patch(fail_on_recompile_limit_hit=True):
            try:
                return self.bare.generate(**arguments)
            except FailOnRecompileLimitHit as error:
                raise GenerationError(
                    f"{NAME}: more lengths of the cache than the compiler keeps ({torch._dynamo.config.recompile_limit}"
                    f"); decode the longest prompt first, or leave {NAME} out of --methods"
                ) from error
            except TorchDynamoException as error:
                reason = " ".join(str(error).partition("\n\n")[0].split())
                raise GenerationError(
                    f"{NAME}: the decoding step cannot be compiled here ({reason}); torch.compile needs a C++ compiler "
                    f"on a CPU and Triton on a GPU. Install it, or leave {NAME} out of --methods"
                ) from error


def _without_hooks(model: nn.Module) -> Any:
    """A copy of the modules, with the very same tensors and without forward hooks."""
    shared = {id(tensor): tensor for tensor in itertools.chain(model.parameters(), model.buffers())}
    bare = copy.deepcopy(model, shared)
    for module in bare.modules():
        for hooks in (module._forward_hooks, module._forward_pre_hooks):
            hooks.clear()
    return bare
