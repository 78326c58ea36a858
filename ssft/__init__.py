"""ssft: fine-tuning that also makes the model faster (Speculative Streaming, arXiv 2402.11131).

The public names, and nothing else. Each is imported on first use, so that `ssft --help` does not load torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from ssft._version import __version__

if TYPE_CHECKING:
    from ssft.adapters.bundle import read_bundle
    from ssft.adapters.bundle_writer import write_bundle
    from ssft.adapters.custom_generate import StreamGenerate
    from ssft.adapters.loader import AdaptedModel, load_adapted
    from ssft.adapters.multi import MultiAdapterModel
    from ssft.bases import base_fingerprint, load_base
    from ssft.decoding.config import TreeConfig
    from ssft.decoding.engine import Engine, StreamDecoder
    from ssft.decoding.request import Generation, Request
    from ssft.errors import SSFTError
    from ssft.streams.config import StreamConfig
    from ssft.streams.insertion import StreamHooks
    from ssft.streams.modules import attach_streams
    from ssft.training.config import StreamSFTConfig
    from ssft.training.trainer import StreamSFTTrainer

_HOMES = {
    "AdaptedModel": "ssft.adapters.loader",
    "Engine": "ssft.decoding.engine",
    "Generation": "ssft.decoding.request",
    "MultiAdapterModel": "ssft.adapters.multi",
    "Request": "ssft.decoding.request",
    "SSFTError": "ssft.errors",
    "StreamConfig": "ssft.streams.config",
    "StreamDecoder": "ssft.decoding.engine",
    "StreamGenerate": "ssft.adapters.custom_generate",
    "StreamHooks": "ssft.streams.insertion",
    "StreamSFTConfig": "ssft.training.config",
    "StreamSFTTrainer": "ssft.training.trainer",
    "TreeConfig": "ssft.decoding.config",
    "attach_streams": "ssft.streams.modules",
    "base_fingerprint": "ssft.bases",
    "load_adapted": "ssft.adapters.loader",
    "load_base": "ssft.bases",
    "read_bundle": "ssft.adapters.bundle",
    "write_bundle": "ssft.adapters.bundle_writer",
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
