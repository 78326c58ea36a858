"""ssft: fine-tuning that also makes the model faster (Speculative Streaming, arXiv 2402.11131).

The public names, and nothing else. Each is imported on first use, so that `ssft --help` does not load torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from ssft._version import __version__

if TYPE_CHECKING:
    from ssft.base.fingerprint import base_fingerprint
    from ssft.base.load import load_base
    from ssft.bundle.read import read_bundle
    from ssft.bundle.write import write_bundle
    from ssft.decoding.config import TreeConfig
    from ssft.decoding.engine import Engine, StreamDecoder
    from ssft.decoding.request import Generation, Request
    from ssft.errors import SSFTError
    from ssft.runtime.generate import StreamGenerate
    from ssft.runtime.loader import AdaptedModel, load_adapted
    from ssft.runtime.model import MultiAdapterModel
    from ssft.streams.config import StreamConfig
    from ssft.streams.insertion import StreamHooks
    from ssft.streams.modules import attach_streams
    from ssft.training.config import StreamSFTConfig
    from ssft.training.trainer import StreamSFTTrainer

_HOMES = {
    "AdaptedModel": "ssft.runtime.loader",
    "Engine": "ssft.decoding.engine",
    "Generation": "ssft.decoding.request",
    "MultiAdapterModel": "ssft.runtime.model",
    "Request": "ssft.decoding.request",
    "SSFTError": "ssft.errors",
    "StreamConfig": "ssft.streams.config",
    "StreamDecoder": "ssft.decoding.engine",
    "StreamGenerate": "ssft.runtime.generate",
    "StreamHooks": "ssft.streams.insertion",
    "StreamSFTConfig": "ssft.training.config",
    "StreamSFTTrainer": "ssft.training.trainer",
    "TreeConfig": "ssft.decoding.config",
    "attach_streams": "ssft.streams.modules",
    "base_fingerprint": "ssft.base.fingerprint",
    "load_adapted": "ssft.runtime.loader",
    "load_base": "ssft.base.load",
    "read_bundle": "ssft.bundle.read",
    "write_bundle": "ssft.bundle.write",
}

__all__ = [
    "AdaptedModel",
    "Engine",
    "Generation",
    "MultiAdapterModel",
    "Request",
    "SSFTError",
    "StreamConfig",
    "StreamDecoder",
    "StreamGenerate",
    "StreamHooks",
    "StreamSFTConfig",
    "StreamSFTTrainer",
    "TreeConfig",
    "__version__",
    "attach_streams",
    "base_fingerprint",
    "load_adapted",
    "load_base",
    "read_bundle",
    "write_bundle",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'ssft' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return __all__
