"""What goes wrong on the way to the hub and back: what is worth another try, and the rest as one line.

No message holds the token, whatever a server answers.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from huggingface_hub import constants, get_token
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HTTPError,
    OfflineModeIsEnabled,
    RevisionNotFoundError,
)

from ssft.errors import HubError, SSFTError

TRIES, PATIENCE = 3, 20.0
"""Most tries of a request that huggingface_hub does not repeat itself, and the seconds after which none begins."""

LOGIN = "set HF_TOKEN or run `hf auth login`"

_TRANSIENT = (408, 429, 500, 502, 503, 504)
_KNOBS = {
    401: f"check the name; a private repository needs a valid token: {LOGIN}",
    403: f"the token has not the right for this; take one with write access to the repository and {LOGIN}",
    404: f"check the name; a private repository needs a token: {LOGIN}",
    **dict.fromkeys(_TRANSIENT, "it is down or busy; run the same command later, or check HF_ENDPOINT"),
}
"""What the user can do about an answer of the hub, by its HTTP status."""


def patiently(call: Callable[..., Any], *args: Any, tries: int = TRIES, **kwargs: Any) -> Any:
    """`call(...)`, repeated after 1 and 2 seconds where the hub is down or the connection breaks."""
    start = time.monotonic()
    for wait in (*range(1, tries), None):
        try:
            return call(*args, **kwargs)
        except Exception as error:
            answer = _find(error, HfHubHTTPError)
            broken = answer.response.status_code in _TRANSIENT if answer else _find(error, HTTPError)
            # Some calls have long retries of their own, which ours are not to multiply.
            if wait is None or not broken or time.monotonic() - start > PATIENCE:
                raise
        time.sleep(wait)


@contextmanager
def explained(repo: str, revision: str | None) -> Iterator[None]:
    """Turn what huggingface_hub raises inside into one line that names the knob."""
    try:
        yield
    except SSFTError:
        raise
    except Exception as error:  # OSError, ValueError, httpx's, and whatever the transfer library raises
        # A server may repeat the token in its answer: then the original stays out of tracebacks.
        token = _token()
        leaks = token is not None and any(token in str(e) for e in _chain(error))
        text = f"{repo} on {constants.ENDPOINT}{_explanation(error, revision)}"
        raise HubError(text) from (None if leaks else error)


def _explanation(error: Exception, revision: str | None) -> str:
    """Why the request failed, and the knob."""
    if _find(error, RevisionNotFoundError):
        return f" has no revision {revision!r}; give one of its branches, tags or commits with --revision"
    if answer := _find(error, HfHubHTTPError):
        said = _clean(answer.server_message or "")
        knob = _KNOBS.get(answer.response.status_code, "check the name, the revision and HF_ENDPOINT")
        if _find(error, GatedRepoError):
            knob = f"the repository is gated: ask for access on its page with your account, then {LOGIN}"
        return f": the hub answered {answer.response.status_code}{said and f' ({said})'}; {knob}"
    if _find(error, OfflineModeIsEnabled) or constants.is_offline_mode():
        return ": HF_HUB_OFFLINE is set, and the cache does not hold it; unset HF_HUB_OFFLINE"
    reason = f"{type(_chain(error)[-1]).__name__}: {_clean(str(error))}"
    if _find(error, HTTPError):
        return (
            f" cannot be reached or the connection broke ({reason}); check the network, the proxy and HF_ENDPOINT, and "
            "run the same command again"
        )
    return f": {reason}; check the name, --revision and the space on the disk"


def _find(error: BaseException, kind: Any) -> Any:
    """The first error of a type among an error and its causes; None if there is none."""
    return next((e for e in _chain(error) if isinstance(e, kind)), None)


def _chain(error: BaseException | None) -> list[BaseException]:
    """An error and what caused it, outermost first."""
    chain: list[BaseException] = []
    while error is not None and error not in chain:
        chain.append(error)
        error = error.__cause__ or error.__context__
    return chain


def _token() -> str | None:
    """The token, to keep it out of messages."""
    try:
        return get_token() or None
    except Exception:  # getting it may be what failed
        return None


def _clean(text: str) -> str:
    """Foreign text as one printable line without the token."""
    token = _token()
    text = text.replace(token, "[token]") if token else text
    return "".join(c for c in " ".join(text.split()) if c.isprintable())[:300]
