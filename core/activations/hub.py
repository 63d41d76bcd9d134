"""Whether the hub can be reached, and its client's errors in one sentence."""

import os
import socket
from urllib.parse import urlsplit

import huggingface_hub
from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

_PATIENCE = 5.0


def offline() -> bool:
    """Whether only what the hub's cache holds can be used.

    The hub's own client retries for half a minute before it says that a machine has no network; one connection attempt
    says so at once. Behind a proxy the attempt would prove nothing and is left out.
    """
    if huggingface_hub.constants.HF_HUB_OFFLINE:
        return True
    proxies = ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy", "HTTP_PROXY", "http_proxy")
    if any(os.environ.get(name) for name in proxies):
        return False
    address = urlsplit(huggingface_hub.constants.ENDPOINT)
    port = address.port or (80 if address.scheme == "http" else 443)
    try:
        socket.create_connection((address.hostname or "", port), timeout=_PATIENCE).close()
    except OSError:
        return True
    return False


def hub_failure(error: BaseException, source: str, kind: str) -> str | None:
    """One sentence for an error that the hub's client raised, or None where it is not one of the usual ones.

    `kind` is what was looked for: "model" or "dataset".
    """
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, GatedRepoError):
            return f"The {kind} '{source}' is gated: accept its terms on the hub and log in with `hf auth login`."
        if isinstance(cause, RevisionNotFoundError):
            return f"The {kind} '{source}' has no such revision on the hub."
        if isinstance(cause, RepositoryNotFoundError):
            return f"The {kind} '{source}' was not found: it is no local path, and the hub does not know it."
        if (
            isinstance(cause, (ConnectionError, socket.gaierror, TimeoutError))
            or "connect" in type(cause).__name__.lower()
        ):
            return unreachable(source, kind)
        cause = cause.__cause__ or cause.__context__
    return None


def unreachable(source: str, kind: str) -> str:
    return (
        f"The {kind} '{source}' is no local path, is not in the hub's local cache, "
        "and the hub cannot be reached from this machine."
    )


def one_line(error: BaseException) -> str:
    """An error's message as part of a sentence of ours: one line, no full stop, not too long."""
    words = " ".join(str(error).split()) or type(error).__name__
    return (words if len(words) <= 300 else f"{words[:300]}…").rstrip(".")
