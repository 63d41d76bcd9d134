"""Who is at the other end: tokens, session cookies, one-time codes, and the user of a loopback connection."""

from __future__ import annotations

import hashlib
import hmac
import pwd
import secrets
import sys
import time
from collections.abc import Iterable
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path
from urllib.parse import quote, unquote

from core.run import write_atomically

COOKIE = "saestudio"
CODE_LIFETIME = 15 * 60.0
"""Seconds that a one-time code can be exchanged for a session."""


def user_actor(uid: int) -> str:
    """The actor name of an operating-system user."""
    try:
        return f"user:{pwd.getpwuid(uid).pw_name}"
    except KeyError:
        return f"user:{uid}"


def read_or_make_token(path: Path) -> str:
    """The token in `path`; a new one is made where there is none. Nobody but the owner can read the file."""
    try:
        path.chmod(0o600)
        token = path.read_text("utf-8").strip()
    except FileNotFoundError:
        token = ""
    if not token:
        token = secrets.token_urlsafe(32)
        write_atomically(path, token.encode() + b"\n", mode=0o600)
    return token


class Access:
    """The tokens of one server, and what is made from them.

    `token` is the data directory's own; it speaks for `owner`. Children get tokens with names of their own.
    """

    def __init__(self, token: str, owner: str) -> None:
        self._token = token
        self._owner = owner
        self._actors: dict[bytes, str] = {_digest(token): owner}
        self._deputies: set[bytes] = set()
        self._readers: set[bytes] = set()
        self._codes: dict[bytes, float] = {}

    def grant(self, actor: str, *, deputy: bool = False, reader: bool = False) -> str:
        """A new token, valid until this process ends, whose bearer acts as `actor`.

        A deputy may also act as somebody else, who has to be vouched for. A reader changes nothing.
        """
        token = secrets.token_urlsafe(32)
        self._actors[_digest(token)] = actor
        if deputy:
            self._deputies.add(_digest(token))
        if reader:
            self._readers.add(_digest(token))
        return token

    def only_reads(self, token: str) -> bool:
        """Whether the bearer of a token may only read."""
        return _digest(token) in self._readers

    def bearer(self, token: str) -> str | None:
        """The actor that a token speaks for; None where it is not valid."""
        # Digests of secrets are compared by looking them up: what timing tells of a digest does not lead to a token.
        return self._actors.get(_digest(token))

    def vouch(self, actor: str) -> str:
        """Says to a deputy that a request is the actor's. It opens nothing by itself and may be seen by the actor."""
        name = quote(actor)
        return f"{name}.{self._signature('actor', name)}"

    def vouched(self, token: str, assertion: str) -> str | None:
        """The actor whom the bearer of a token acts for; None where they are not vouched for or it is no deputy's."""
        name, _, signature = assertion.rpartition(".")
        if _digest(token) in self._deputies and self._is_signed("actor", name, signature):
            return unquote(name)
        return None

    def new_code(self) -> str:
        """A code that can be exchanged for a session once, soon."""
        now = time.monotonic()
        self._codes = {code: until for code, until in self._codes.items() if until > now}
        code = secrets.token_urlsafe(24)
        self._codes[_digest(code)] = now + CODE_LIFETIME
        return code

    def redeem(self, code: str) -> str | None:
        """A new session in exchange for a one-time code; None where the code is unknown, used or too old."""
        until = self._codes.pop(_digest(code), None)
        if until is None or until < time.monotonic():
            return None
        nonce = secrets.token_urlsafe(16)
        return f"{nonce}.{self._signature('session', nonce)}"

    def session(self, value: str) -> str | None:
        """The actor that a session speaks for; None where it is not valid. Sessions outlive a restart of the server."""
        nonce, _, signature = value.partition(".")
        return self._owner if nonce and self._is_signed("session", nonce, signature) else None

    def _is_signed(self, purpose: str, value: str, signature: str) -> bool:
        return hmac.compare_digest(signature.encode(), self._signature(purpose, value).encode())

    def _signature(self, purpose: str, value: str) -> str:
        return hmac.new(self._token.encode(), f"{purpose} {value}".encode(), hashlib.sha256).hexdigest()


def _digest(secret: str) -> bytes:
    return hashlib.sha256(secret.encode("utf-8", "surrogateescape")).digest()


def peer_uid(client: tuple[str, int], server: tuple[str, int], tables: Iterable[Path] | None = None) -> int | None:
    """The user whose socket is the other end of a loopback connection, from the kernel's socket tables.

    None where it cannot be told. An orphaned socket (its process has closed it) is listed under uid 0 and inode 0 and
    proves nothing.
    """
    if tables is None:
        tables = (Path("/proc/net/tcp"), Path("/proc/net/tcp6"))
    near, far = _parsed(client[0]), _parsed(server[0])
    if near is None or far is None:
        return None
    wanted = {
        (f"{_hex(a)}:{client[1]:04X}", f"{_hex(b)}:{server[1]:04X}")
        for a, b in ((near, far), (_mapped(near), _mapped(far)))
    }
    for table in tables:
        try:
            lines = table.read_text("ascii").splitlines()[1:]
        except OSError:
            continue
        for line in lines:
            columns = line.split()
            if (columns[1], columns[2]) in wanted and columns[3] == "01" and columns[9] != "0":
                return int(columns[7])
    return None


def is_loopback(host: str) -> bool:
    """Whether an address (or `localhost`) can only be this machine's own."""
    address = _parsed(host)
    return host == "localhost" if address is None else address.is_loopback


def _parsed(host: str) -> IPv4Address | IPv6Address | None:
    try:
        address = ip_address(host.partition("%")[0])
    except ValueError:
        return None
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped
    return address


def _mapped(address: IPv4Address | IPv6Address) -> IPv4Address | IPv6Address:
    return IPv6Address(f"::ffff:{address}") if isinstance(address, IPv4Address) else address


def _hex(address: IPv4Address | IPv6Address) -> str:
    """As /proc/net/tcp writes it: 32-bit words in the machine's byte order."""
    packed = address.packed
    words = [packed[start : start + 4] for start in range(0, len(packed), 4)]
    return "".join(f"{int.from_bytes(word, sys.byteorder):08X}" for word in words)
