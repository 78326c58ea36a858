"""Adapter folders whose files are missing, cut off, links, bombs or no JSON of an adapter.

Every entry is (function that spoils a good bundle, expression that the error matches).
"""

import gzip
import io
import os
import zipfile

from spoiling import CONFIG, LORA, PROVENANCE, SETTINGS, STREAMS, enlarged, half, holds


def gone(name):
    return lambda folder: (folder / name).unlink()


def linked(name, target):
    def damage(folder):
        (folder / name).rename(folder.parent / f"elsewhere-{name}")
        (folder / name).symlink_to(target or folder.parent / f"elsewhere-{name}")

    return damage


def replaced(name, make):
    def damage(folder):
        (folder / name).unlink()
        make(folder / name)

    return damage


def bomb():
    """A zip of 64 MiB of zeros, as torch.save's own format is one."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data/0", bytes(64 * 2**20))
    return buffer.getvalue()


BAD_FILES = {
    "no LoRA": (gone(LORA), f"{LORA}: missing"),
    "no streams": (gone(STREAMS), f"{STREAMS}: missing"),
    "no settings": (gone(SETTINGS), f"{SETTINGS}: missing"),
    "no peft settings": (gone(CONFIG), f"{CONFIG}: missing"),
    "half a LoRA": (half(LORA), f"{LORA}: no valid safetensors file .*truncated or of another kind"),
    "half the streams": (half(STREAMS), f"{STREAMS}: no valid safetensors file .*truncated or of another kind"),
    "half the settings": (half(SETTINGS), f"{SETTINGS}: not readable as JSON"),
    "empty LoRA": (holds(LORA, b""), f"{LORA}: no valid safetensors file"),
    "a zip bomb": (holds(STREAMS, bomb()), f"{STREAMS}: no valid safetensors file"),
    "a gzip bomb": (holds(LORA, gzip.compress(bytes(64 * 2**20))), f"{LORA}: no valid safetensors file"),
    "a zip bomb as JSON": (holds(CONFIG, bomb()), f"{CONFIG}: not readable as JSON"),
    "link out of the folder": (linked(LORA, None), rf"{LORA}: a link to .*elsewhere-\S+, outside the adapter folder"),
    "link that climbs out": (linked(SETTINGS, f"../elsewhere-{SETTINGS}"), "outside the adapter folder"),
    "link to the system": (linked(CONFIG, "/etc/passwd"), f"{CONFIG}: a link to /etc/passwd, outside"),
    "link to a device": (linked(STREAMS, "/dev/zero"), f"{STREAMS}: a link to /dev/zero, outside"),
    "link of the provenance": (linked(PROVENANCE, None), f"{PROVENANCE}: a link to .*, outside the adapter folder"),
    "link to itself": (replaced(LORA, lambda p: p.symlink_to(p.name)), f"{LORA}: cannot be read"),
    "link to nothing": (replaced(SETTINGS, lambda p: p.symlink_to("gone")), f"{SETTINGS}: missing"),
    "a pipe": (replaced(LORA, os.mkfifo), f"{LORA}: no regular file"),
    "a folder": (replaced(CONFIG, os.mkdir), f"{CONFIG}: no regular file"),
}

BAD_JSON = {
    "key twice": (
        holds(SETTINGS, '{"format_version": 1, "tree": {}, "tree": {}}'),
        rf"{SETTINGS}: not readable as JSON \(key 'tree' stands twice\)",
    ),
    "key twice inside": (
        holds(CONFIG, '{"alpha_pattern": {"a": 1, "b": 2, "a": 3}}'),
        f"{CONFIG}: not readable as JSON .key 'a' stands twice",
    ),
    "key twice in the provenance": (holds(PROVENANCE, '{"a": 1, "a": 2}'), f"{PROVENANCE}: .* 'a' stands twice"),
    "nested without end": (holds(CONFIG, '{"a":' + "[" * 500_000), f"{CONFIG}: not readable as JSON"),
    "more values than memory": (
        holds(CONFIG, '{"a":[' + "[]," * 5_000_000 + "1]}"),
        "10,000,002 values, but no adapter",
    ),
    "a number of 5,000 digits": (holds(CONFIG, '{"r": 1' + "0" * 5_000 + "}"), f"{CONFIG}: not readable as JSON"),
    "no UTF-8": (holds(CONFIG, b'{"\xff": 1}'), f"{CONFIG}: not readable as JSON"),
    "a byte order mark": (holds(SETTINGS, b"\xef\xbb\xbf{}"), f"{SETTINGS}: not readable as JSON"),
    "no object": (holds(CONFIG, "[1]"), f"{CONFIG}: holds a list, expected an object"),
    "large JSON": (enlarged(SETTINGS, 2**24 + 1), f"{SETTINGS}: 16,777,217 bytes, but no"),
    "large provenance": (enlarged(PROVENANCE, 2**40), f"{PROVENANCE}: 1,099,511,627,776 bytes, but no"),
}
