"""What a data file is, by name and content, so that two runs can be told to have read the same."""

import hashlib
import os
from pathlib import Path

_CHUNK = 2**20


def file_identity(path: str | os.PathLike[str]) -> dict[str, str]:
    """{"name", "sha256"}: a file's name without its folder, and the hash of its bytes. Raises `OSError`.

    The file is read in chunks, so that one larger than the memory can be named too.
    """
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return {"name": Path(path).name, "sha256": digest.hexdigest()}
