"""The one exception family that a user is meant to read.

Every message says what was given, why it cannot work, and which knob to turn. The command line
prints it without a traceback and exits 2; Python users can catch `SSFTError` for all of them.
"""

import difflib
import re
from collections.abc import Iterable


class SSFTError(Exception):
    """Base of all errors that ssft raises on purpose."""


class ConfigError(SSFTError, ValueError):
    """A setting is out of range, unknown or contradicts another one."""


class DataError(SSFTError, ValueError):
    """A data file is missing, empty, malformed or does not fit the model."""


class BaseModelError(SSFTError, RuntimeError):
    """The base model cannot be fetched, verified or loaded."""


class UnsupportedArchitectureError(SSFTError, NotImplementedError):
    """The model's architecture is in no family that streams know."""


class BundleError(SSFTError, RuntimeError):
    """An adapter folder is damaged, incomplete, of a wrong version or made for another base."""


class HubError(SSFTError, RuntimeError):
    """A repository of the hub cannot be found, read or written: name, token, network, HF_ENDPOINT or revision."""


class GenerationError(SSFTError, ValueError):
    """A prompt or a decoding setting cannot be served."""


def nearest(name: str, known: Iterable[str]) -> str:
    """`did you mean 'x' or 'y'?` with the known names that are spelt most like `name`; empty where none is near.

    A name with sections or folders (`tree.max_nodes`, `peers/medusa_sql`) is also compared by its last part: in
    the wrong section, or in none, it is far from the right one in letters.
    """
    names = {full.lower(): full for full in known}
    ends = {key: _end(key) for key in names}
    wanted = name.lower()
    same = [_end(wanted)] if _end(wanted) in ends.values() else []
    parts = same or difflib.get_close_matches(_end(wanted), sorted(set(ends.values())), n=1, cutoff=0.7)
    near = [key for part in parts for key, end in ends.items() if end == part]
    near += difflib.get_close_matches(wanted, names, n=1)
    return f"did you mean {' or '.join(repr(names[key]) for key in dict.fromkeys(near))}?" if near else ""


def _end(name: str) -> str:
    return re.split(r"[./]", name)[-1]
