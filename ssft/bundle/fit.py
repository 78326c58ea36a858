"""Whether a bundle fits a base, and its streams as modules there; what does not fit takes no memory."""

import os
from typing import Any

import torch

from ssft.bundle.folder import all_finite
from ssft.bundle.read import SSFT_CONFIG, STREAM_WEIGHTS, Bundle, read_bundle
from ssft.errors import BundleError, ConfigError
from ssft.streams.modules import StreamModules


def read_fitting(path: str | os.PathLike[str], model: Any, fingerprint: dict[str, str]) -> Bundle:
    """Read the adapter folder `path` for `model` (a causal LM) with that fingerprint; `BundleError` if it does not fit.

    By the headers first: a file of gigabytes that cannot fit the base must not take them.
    """
    check_fit(read_bundle(path, outline=True), model, fingerprint)
    bundle = read_bundle(path)
    check_fit(bundle, model, fingerprint)
    return bundle


def check_fit(bundle: Bundle, model: Any, fingerprint: dict[str, str]) -> None:
    """Raise `BundleError` unless the adapter was made for `model` and its tensors have the shapes needed there.

    An outline is enough: what cannot fit is told before any memory is taken for it.
    """
    bundle.check_base(model, fingerprint)
    if bundle.stream_config is not None:
        try:
            bundle.stream_config.check_streams(model.config.num_hidden_layers)
        except ConfigError as error:
            raise BundleError(f"{bundle.path}: {error}") from error
        check_streams(bundle, model.config.hidden_size)


def check_streams(bundle: Bundle, hidden_size: int) -> StreamModules:
    """The modules that the bundle's streams need over a base of width `hidden_size`, on the device "meta".

    Raises `BundleError` unless the bundle's tensors have their names and shapes.
    """
    assert bundle.stream_config is not None
    bundle.check_held()
    # On no device: a config alone must not have modules of any size built.
    with torch.device("meta"):
        modules = StreamModules(bundle.stream_config, hidden_size)
    expected = {key: tuple(value.shape) for key, value in modules.state_dict().items()}
    found = {key: tuple(value.shape) for key, value in bundle.stream_weights.items()}
    if expected != found:
        shown = dict(list(found.items())[:8])
        raise BundleError(
            f"{bundle.path / STREAM_WEIGHTS}: holds {shown}, but {SSFT_CONFIG} and the base need {expected}"
        )
    return modules


def load_stream_modules(bundle: Bundle, hidden_size: int) -> StreamModules:
    """The stream parameters of a checked bundle as a module for a base of width h = `hidden_size`."""
    modules = check_streams(bundle, hidden_size)
    weights = {key: value.to(torch.float32, copy=True) for key, value in bundle.stream_weights.items()}
    if not all(map(all_finite, weights.values())):
        raise BundleError(f"{bundle.path / STREAM_WEIGHTS}: holds values beyond the range of float32")
    modules.load_state_dict(weights, assign=True)
    return modules.requires_grad_(False).eval()
