"""Ways to spoil an adapter folder: each function gives one that spoils the folder it is called with."""

import json
import os

from adapter_folders import change_json
from safetensors.torch import load_file, save_file

CONFIG, LORA = "adapter_config.json", "adapter_model.safetensors"
SETTINGS, STREAMS, PROVENANCE = "ssft_config.json", "streams.safetensors", "provenance.json"
VOCABULARY = "draft_vocabulary.safetensors"


def holds(name, data):
    """Put other content into a file."""

    def damage(folder):
        (folder / name).write_bytes(data if isinstance(data, bytes) else data.encode())

    return damage


def half(name):
    """Cut a file off in its middle."""
    return lambda folder: (folder / name).write_bytes(
        (folder / name).read_bytes()[: (folder / name).stat().st_size // 2]
    )


def enlarged(name, size):
    """A hole behind the content takes no disk."""
    return lambda folder: os.truncate(folder / name, size)


def lora(**changes):
    """Change fields of adapter_config.json."""
    return lambda folder: change_json(folder, CONFIG, **changes)


def settings(**changes):
    """Change fields of ssft_config.json."""
    return lambda folder: change_json(folder, SETTINGS, **changes)


def section(name, **changes):
    """Change fields inside a section of ssft_config.json."""

    def damage(folder):
        held = json.loads((folder / SETTINGS).read_text())[name]
        change_json(folder, SETTINGS, **{name: {**held, **changes}})

    return damage


def tensors(name, change):
    """Change the tensors of a file, by a function from what it holds to what it is to hold."""

    def damage(folder):
        held = load_file(folder / name) if (folder / name).exists() else {}
        save_file(change(held), folder / name)

    return damage


def and_then(*steps):
    """Spoil a folder in several steps, one after the other."""

    def damage(folder):
        for step in steps:
            step(folder)

    return damage


def header(name, text, size=0, data=b""):
    """A safetensors file with a header of one's own and a hole of `size` bytes behind it."""

    def damage(folder):
        raw = text.encode() if isinstance(text, str) else json.dumps(text).encode()
        (folder / name).write_bytes(len(raw).to_bytes(8, "little") + raw + data)
        os.truncate(folder / name, 8 + len(raw) + max(size, len(data)))

    return damage


def entry(shape, size, dtype="F32", key="stream_embeddings", file=STREAMS, held=None):
    """One tensor of `size` bytes; `held`: how many the file really has."""
    return header(
        file, {key: {"dtype": dtype, "shape": shape, "data_offsets": [0, size]}}, size if held is None else held
    )
