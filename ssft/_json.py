"""What JSON knows of a value, and its text."""

import dataclasses
import json
import math
import os
from typing import Any


def to_json(value: Any) -> Any:
    """A value of dataclasses, paths, tuples, sets, arrays and tensors as what JSON knows; NaN and infinities become
    null, keys strings."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return to_json(dataclasses.asdict(value))
    if isinstance(value, dict):
        return {str(key): to_json(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [to_json(item) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if hasattr(value, "tolist"):  # numpy and torch, scalars and arrays
        return to_json(value.tolist())
    return value


def json_text(value: Any) -> str:
    """`to_json` of a value as text, indented, without a line break at its end."""
    return json.dumps(to_json(value), indent=2, ensure_ascii=False, allow_nan=False)
