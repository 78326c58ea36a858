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

_TRANSIENT = (408, 429, 500, 502, 503, 504)


def patiently(call: Callable[..., Any], *args: Any, tries: int = TRIES, **kwargs: Any) -> Any:
    """`call(...)`, repeated after 1 and 2 seconds where the hub is down or the connection breaks."""
    start = time.monotonic()
    for number in range(1, tries + 1):
        try:
            return call(*args, **kwargs)
        except Exception as error:
            status = _status(error)
            broken = status in _TRANSIENT or (status is None and any(isinstance(e, HTTPError) for e in _chain(error)))
            # Some calls have long retries of their own, which ours are not to multiply.
            if not broken or number == tries or time.monotonic() - start > PATIENCE:
                raise
        time.sleep(number)
    raise AssertionError("unreachable")


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
        raise HubError(_explanation(error, repo, revision)) from (None if leaks else error)


def _chain(error: BaseException) -> list[BaseException]:
    """An error and what caused it, outermost first."""
    chain: list[BaseException] = []
    while error is not None and error not in chain:
        chain.append(error)
        error = error.__cause__ or error.__context__  # type: ignore[assignment]
    return chain


def _status(error: BaseException) -> int | None:
    """The HTTP status behind an error; None if there was no answer."""
    return next((e.response.status_code for e in _chain(error) if isinstance(e, HfHubHTTPError)), None)


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


def _explanation(error: Exception, repo: str, revision: str | None) -> str:
    """What was asked of which hub, why it failed, and the knob."""
    where = f"{repo} on {constants.ENDPOINT}"
    status, chain = _status(error), _chain(error)
    login = "set HF_TOKEN or run `hf auth login`"
    if any(isinstance(e, RevisionNotFoundError) for e in chain):
        return f"{where} has no revision {revision!r}; give one of its branches, tags or commits with --revision"
    if status is not None:
        http = next(e for e in chain if isinstance(e, HfHubHTTPError))
        said = _clean(http.server_message or "")
        answer = f"the hub answered {status}" + (f" ({said})" if said else "")
        if any(isinstance(e, GatedRepoError) for e in chain):
            knob = f"the repository is gated: ask for access on its page with your account, then {login}"
        elif status == 401:
            knob = f"check the name; a private repository needs a valid token: {login}"
        elif status == 403:
            knob = f"the token has not the right for this; take one that may (write access to {repo}) and {login}"
        elif status == 404:
            knob = f"check the name; a private repository needs a token: {login}"
        elif status in _TRANSIENT:
            knob = "it is down or busy; run the same command later, or check HF_ENDPOINT"
        else:
            knob = "check the name, the revision and HF_ENDPOINT"
        return f"{where}: {answer}; {knob}"
    if any(isinstance(e, OfflineModeIsEnabled) for e in chain) or constants.is_offline_mode():
        return f"{where}: HF_HUB_OFFLINE is set, and the cache does not hold it; unset HF_HUB_OFFLINE"
    if any(isinstance(e, HTTPError) for e in chain):
        return (
            f"{where} cannot be reached or the connection broke ({type(chain[-1]).__name__}: {_clean(str(error))}); "
            "check the network, the proxy and HF_ENDPOINT, and run the same command again"
        )
    first = chain[-1]
    return (
        f"{where}: {type(first).__name__}: {_clean(str(first))}; check the name, --revision and the space on the disk"
    )
