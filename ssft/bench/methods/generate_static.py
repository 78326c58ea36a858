"""`model.generate` of transformers with a static cache and its own `torch.compile` of the decoding step.

The step is compiled for one shape: rows are filled up to the batch size, and the cache has one length, rounded up
from the longest prompt with its answer so far. So compilation happens in the warm-up, if that meets the longest
prompt. transformers itself compiles on a CPU only when told to, which is done here.
"""

import copy
from typing import Any

import torch
from torch import Tensor
from torch._dynamo.exc import FailOnRecompileLimitHit, TorchDynamoException
from transformers import CompileConfig

from ssft.bench.methods import Setting, _transformers
from ssft.decoding.request import Generation
from ssft.errors import ConfigError, GenerationError
from ssft.lora.weights import product_hook

LENGTHS = 256
"""The cache's length in tokens is a multiple of this."""

BACKEND = "inductor"
"""What `torch.compile` hands the traced step to; transformers' own default."""
OUT = "leave generate_static out of --methods"


class Method(_transformers.GenerateMethod):
    """Greedy search over a copy of the model that shares all its weights; calls == tokens.

    The copy is there because the hooks of the streams and of the LoRA read context variables, at which the compiler
    would cut the step into hundreds of pieces. On the copy the LoRA's products are fixed to their modules instead.
    """

    DESCRIPTION = "model.generate of transformers, greedy, static cache and compiled step"
    KIND = "plain"

    def __init__(self, setting: Setting) -> None:
        super().__init__(setting)
        model = self.backbone.model
        quantizer = getattr(model, "hf_quantizer", None)
        if quantizer is not None and not quantizer.is_compileable:
            raise ConfigError(
                f"generate_static: transformers does not compile a model in {self.adapted.precision}; take "
                f"--quantization none, or {OUT}"
            )
        # The very same tensors, and no hooks.
        self.bare: Any = copy.deepcopy(
            model, {id(tensor): tensor for tensor in [*model.parameters(), *model.buffers()]}
        )
        self.adapted.linears.restore(self.bare)  # packed weights are nothing that the compiler knows
        for module in self.bare.modules():
            module._forward_hooks.clear()
            module._forward_pre_hooks.clear()
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
                    "generate_static: more lengths of the cache than the compiler keeps "
                    f"({torch._dynamo.config.recompile_limit}); decode the longest prompt first, or {OUT}"
                ) from error
            except TorchDynamoException as error:
                reason = " ".join(str(error).partition("\n\n")[0].split())
                raise GenerationError(
                    f"generate_static: the decoding step cannot be compiled here ({reason}); torch.compile needs a C++ "
                    f"compiler on a CPU and Triton on a GPU. Install it, or {OUT}"
                ) from error
