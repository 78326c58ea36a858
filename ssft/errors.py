"""The one exception family that a user is meant to read.

Every message says what was given, why it cannot work, and which knob to turn. The command line
prints it without a traceback and exits 2; Python users can catch `SSFTError` for all of them.
"""


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
