"""Find the server, and answer those who look for it. A challenge, so that a stranger's server is not believed.

Who was given no address looks in this order, and takes the first server that proves itself:

    cloud metadata   a tag or an attribute of this machine tells the address (cloud_tags.py)
    DNS              the name `coalition`, in the machine's search domains
    broadcast        a datagram to every interface; no cloud carries it

The question goes as a datagram to who may hear it, and as POST /api/v1/discovery to an address that a cloud or DNS tells:

    request   {"coalition": 1, "farm": name or "", "nonce": 32 hex digits, "token": the token's id or ""}
    answer    {"coalition": 1, "farm": name, "url": where the server serves, "nonce": the same, "mac": hex or ""}
    mac       HMAC-SHA256 over "nonce|farm|url", keyed by the SHA-256 of the token's secret

A token is "<id>.<secret>". Who has one believes only a right mac; who has none accepts the first answer and says so.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import http.client
import ipaddress
import json
import logging
import os
import re
import secrets
import select
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from queue import Empty, SimpleQueue
from typing import Any, TypeVar, cast
from urllib.parse import urlsplit

import psutil

from coalition import cloud_tags
from coalition.config import LOOPBACK, Settings
from coalition.errors import CoalitionError, ServerUnreachable
from coalition.model import NONCE

VERSION = 1
DEFAULT_PORT = 19_211
MAX_DATAGRAM = 1_024
OLD_QUESTION, OLD_ANSWER = b"coalition", b"roxor"  # of workers of Coalition 3.x and 4.0, who take the sender for the server
TOKEN_ID = re.compile(r"^[A-Za-z0-9_\-]{1,64}\Z")
RESEND_S = (0.0, 0.2, 0.5, 1.0)  # then each second: a broadcast may be lost
PATH = "/api/v1/discovery"
DNS_NAME = "coalition"
DNS_S = 2.0  # a resolver that has no answer by then is passed over
ASK_S = 2.0  # and so is an address that is silent for so long
MAX_ADDRESSES = 8
T = TypeVar("T")
logger = logging.getLogger(__name__)


def mac(key: bytes, nonce: str, farm: str, url: str) -> str:
    """The signature of an answer, hex."""
    return hmac.new(key, f"{nonce}|{farm}|{url}".encode(), hashlib.sha256).hexdigest()


def key_of_token(token: str) -> bytes:
    """What signs the answers to this token: the SHA-256 of its secret, which is what the server stores."""
    return hashlib.sha256(token.partition(".")[2].encode()).digest()


# ---------------------------------------------------------------- looking


def search(
    farm: str = "",
    token: str = "",
    port: int = DEFAULT_PORT,
    loopback_only: bool = False,
    timeout_s: float = 5.0,
    told: set[str] | None = None,
) -> str:
    """The address of the first server that proves itself: by the cloud's metadata, by DNS, by broadcast (see `find`).

    Each step is logged; who looks again and again keeps `told`, and hears each line once. ServerUnreachable when none found one.
    """
    told = set() if told is None else told
    if not loopback_only:
        wanted = _Search(farm, token, told)
        for address in _places(port, told):
            url = _ask(address, wanted, told)
            if url:
                return url
    _say(told, f"broadcast: asking {', '.join(broadcast_addresses(loopback_only))} on UDP port {port}")
    return find(farm, token, port, loopback_only, timeout_s, told)


def _say(told: set[str], text: str) -> None:
    if text not in told:
        told.add(text)
        logger.info("%s", text)


def _places(port: int, told: set[str]) -> Iterator[str]:
    """Addresses that may be a server's, one after the other: the later ones are found only when they are asked for."""
    address, words = cloud_tags.server()
    _say(told, f"cloud metadata: {words}")
    if address:
        yield from [address] if "://" in address else _of_host(address, port)
    found = _resolved(DNS_NAME)
    _say(told, f"DNS: {DNS_NAME} is {', '.join(found)}" if found else f"DNS: there is no name {DNS_NAME}")
    for one in found[:MAX_ADDRESSES]:
        yield from _of_host(one, port)


def _of_host(host: str, port: int) -> Iterator[str]:
    """The addresses that a server on this host may have."""
    if host.count(":") > 1 and not host.startswith("["):  # IPv6
        host = f"[{host}]"
    place = host if re.search(r":\d+\Z", host) else f"{host}:{port}"
    yield from (f"{scheme}://{place}" for scheme in ("http", "https"))


def _resolved(name: str) -> list[str]:
    """The addresses of a name, in the system's order. A thread asks, as a resolver without a server takes its time."""
    try:
        found = _within(DNS_S, lambda: socket.getaddrinfo(name, None, type=socket.SOCK_STREAM))
    except OSError:
        return []
    return list(dict.fromkeys(str(place[0]) for *_, place in found))


def _within(limit_s: float, call: Callable[[], T]) -> T:
    """What a call gives; OSError if that takes longer: a thread makes it, which may go on."""
    answers: SimpleQueue[tuple[T | None, Exception | None]] = SimpleQueue()

    def make() -> None:
        try:
            answers.put((call(), None))
        except Exception as error:  # noqa: BLE001 - it is raised where the call was asked for
            answers.put((None, error))

    threading.Thread(target=make, name="discovery", daemon=True).start()
    try:
        answer, error = answers.get(timeout=limit_s)
    except Empty:
        raise TimeoutError(f"no answer within {limit_s:g} s") from None
    if error is not None:
        raise error
    return cast(T, answer)


def _ask(address: str, wanted: _Search, told: set[str]) -> str:
    """The address that the server there says of itself, if it proves itself; else an empty text."""
    trouble = "it is no address"
    if _is_url(address):
        try:
            url = wanted.read(_within(2 * ASK_S, lambda: _post(address, wanted.request)), address)
            if url:
                return url
            trouble = "its answer is none of this farm's server"
        except (OSError, ValueError, http.client.HTTPException) as error:  # ValueError: no name that DNS could know
            trouble = str(error) or type(error).__name__
    _say(told, f"{address} is not taken: {trouble}")
    return ""


def _post(address: str, question: bytes) -> bytes:
    """Whoever's answer. No certificate counts yet: the token proves the answer, and the server is called by the name in it."""
    parts = urlsplit(address)
    host = str(parts.hostname)
    if parts.scheme == "https":
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        wire: http.client.HTTPConnection = http.client.HTTPSConnection(host, parts.port, timeout=ASK_S, context=context)
    else:
        wire = http.client.HTTPConnection(host, parts.port, timeout=ASK_S)
    with contextlib.closing(wire):
        wire.request("POST", parts.path.rstrip("/") + PATH, question, {"Content-Type": "application/json"})
        return wire.getresponse().read(MAX_DATAGRAM + 1)


def find(
    farm: str = "",
    token: str = "",
    port: int = DEFAULT_PORT,
    loopback_only: bool = False,
    timeout_s: float = 5.0,
    doubted: set[str] | None = None,
) -> str:
    """The address of the first server that answers rightly: of this farm, if one is named, and with the token's signature.

    `loopback_only` asks this machine alone. ServerUnreachable when none answered within `timeout_s`. Who looks again and again
    keeps `doubted`, the peers that were not believed: each is told of once.
    """
    search = _Search(farm, token, set() if doubted is None else doubted)
    deadline = time.monotonic() + timeout_s
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        sock.bind(("127.0.0.1" if loopback_only else "", 0))
        for pause in (*RESEND_S, *[RESEND_S[-1]] * int(timeout_s + 1)):
            url = _listen(sock, search, min(deadline, time.monotonic() + pause))
            if url or time.monotonic() >= deadline:
                break
            for address in broadcast_addresses(loopback_only):
                with contextlib.suppress(OSError):  # an interface that is down does not matter if another is up
                    sock.sendto(search.request, (address, port))
        url = url or _listen(sock, search, deadline)
    if url:
        return url
    which = f" of farm {farm}" if farm else ""
    raise ServerUnreachable(f"no server{which} answered on UDP port {port}; give its address with --server")


def _listen(sock: socket.socket, search: _Search, until: float) -> str:
    """The address in the first right answer that comes before `until`, else an empty text."""
    while (left := until - time.monotonic()) > 0:
        sock.settimeout(left)
        try:
            data, (peer, *_) = sock.recvfrom(MAX_DATAGRAM + 1)
        except TimeoutError:
            break
        except OSError:  # an earlier datagram was refused
            continue
        url = search.read(data, peer)
        if url:
            return url
    return ""


def broadcast_addresses(loopback_only: bool) -> list[str]:
    """Where a question goes: the broadcast address of every interface, the general one, and loopback's."""
    if loopback_only:
        return ["127.255.255.255"]
    found = [
        address.broadcast
        for addresses in psutil.net_if_addrs().values()
        for address in addresses
        if address.family == socket.AF_INET and address.broadcast
    ]
    return list(dict.fromkeys([*found, "255.255.255.255", "127.255.255.255"]))


class _Search:
    """One question and the judgement of its answers."""

    def __init__(self, farm: str, token: str, doubted: set[str]) -> None:
        self.farm = farm
        self.token = token
        self.nonce = secrets.token_hex(16)
        self._doubted = doubted
        question = {"coalition": VERSION, "farm": farm, "nonce": self.nonce, "token": token.partition(".")[0]}
        self.request = json.dumps(question).encode()

    def read(self, data: bytes, peer: str) -> str:
        """The server's address if the answer is right, else an empty text."""
        answer = _parse(data)
        farm, url, sign = (answer.get(name) for name in ("farm", "url", "mac"))
        if not isinstance(farm, str) or not isinstance(url, str) or not isinstance(sign, str):
            return ""
        if answer.get("nonce") != self.nonce or (self.farm and farm != self.farm) or not (_is_url(url) and farm.isprintable()):
            return ""
        if not sign.isascii():  # no signature of ours; half a character could not even be compared
            return ""
        if not self.token:
            logger.warning("found farm %s at %s; the answer is not signed, as this worker has no token", farm, url)
            return url
        if hmac.compare_digest(sign.encode(), mac(key_of_token(self.token), self.nonce, farm, url).encode()):
            logger.info("found farm %s at %s", farm, url)
            return url
        if peer not in self._doubted:
            self._doubted.add(peer)
            logger.warning("%s says it is farm %s at %s, but does not know this token; not believed", peer, farm[:64], url[:128])
        return ""


def _is_url(text: str) -> bool:
    try:
        parts = urlsplit(text)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0 and text.isprintable()
    except ValueError:
        return False


def _parse(data: bytes) -> dict[str, Any]:
    """A datagram's object; empty if it is none of ours."""
    if len(data) > MAX_DATAGRAM:
        return {}
    try:
        message = json.loads(data)
    except (ValueError, RecursionError):
        return {}
    return message if isinstance(message, dict) and message.get("coalition") == VERSION else {}


# ---------------------------------------------------------------- answering


def port_of(settings: Settings) -> int:
    """The UDP port on which workers ask for this server."""
    return settings.server.discovery_port or settings.port


def open_port(settings: Settings) -> socket.socket | None:
    """The socket to which workers' questions come; None, with a line in the log, when the port cannot be used."""
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if hasattr(socket, "SO_REUSEPORT") and not hasattr(socket, "SO_BINDTODEVICE"):  # the BSDs and macOS share a port only so
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    try:
        sock.bind(("0.0.0.0", port_of(settings)))  # noqa: S104 - broadcasts come to no other address
    except OSError as error:
        sock.close()
        logger.error("workers cannot find this server by themselves: UDP port %d: %s", port_of(settings), error.strerror)
        return None
    sock.setblocking(False)
    return sock


class Responder:
    """Answers workers that look for this server, in a thread of its own, until `stop()`.

    `key_of(token_id)` gives the key that signs (the stored SHA-256 of the token's secret), None for an unknown token: then
    the answer is not signed. Several servers of one machine may each have a Responder on one port: broadcasts reach all.
    A server on loopback answers only this machine. `sock` is one that the processes of a server share (`open_port`): each
    question comes to one of them.
    """

    def __init__(self, settings: Settings, key_of: Callable[[str], bytes | None], sock: socket.socket | None = None) -> None:
        self._settings = settings
        self._key_of = key_of
        self._port = port_of(settings)
        self._socket = sock
        self._thread: threading.Thread | None = None
        self._stop_in, self._stop_out = os.pipe()

    @property
    def port(self) -> int:
        return self._port

    def start(self) -> bool:
        """False, with a line in the log, when the port cannot be used; the server can be used by its address all the same."""
        sock = self._socket or open_port(self._settings)
        if sock is None:
            return False
        self._port = sock.getsockname()[1]
        self._socket = sock
        self._thread = threading.Thread(target=self._serve, name="discovery", daemon=True)
        self._thread.start()
        return True

    def stop(self) -> None:
        os.close(self._stop_out)
        if self._thread:
            self._thread.join()
        if self._socket:
            self._socket.close()
        os.close(self._stop_in)

    def _serve(self) -> None:
        assert self._socket
        while True:
            ready, _, _ = select.select([self._socket.fileno(), self._stop_in], [], [])
            if self._stop_in in ready:
                return
            with contextlib.suppress(OSError):  # a peer that is gone, or another process was faster; the next one counts
                data, (peer, peer_port) = self._socket.recvfrom(MAX_DATAGRAM + 1)
                answer = self.answer(data, peer)
                if answer:
                    self._socket.sendto(answer, (peer, peer_port))

    def answer(self, data: bytes, peer: str) -> bytes | None:
        """The datagram for this question; None for one that is malformed, for another farm, or not to be answered."""
        if data == OLD_QUESTION and self._settings.server.legacy:
            return OLD_ANSWER if url_for(self._settings, peer) else None
        question = _parse(data)
        farm, nonce, token = (question.get(name) for name in ("farm", "nonce", "token"))
        if not isinstance(farm, str) or not isinstance(nonce, str) or not isinstance(token, str):
            return None
        if not NONCE.match(nonce):
            return None
        try:
            proof = prove(self._settings, self._key_of, farm, nonce, token, peer)
        except CoalitionError as error:  # the database is away: the worker asks again
            logger.warning("a worker's question from %s cannot be answered: %s", peer, error)
            return None
        except Exception:  # whatever it is, the next question must be answered
            logger.exception("a worker's question from %s cannot be answered", peer)
            return None
        return json.dumps(proof).encode() if proof else None


def prove(
    settings: Settings, key_of: Callable[[str], bytes | None], farm: str, nonce: str, token: str, peer: str
) -> Mapping[str, Any] | None:
    """What answers a question: where this server is, signed if the token is known. None: another farm, or no address for it."""
    own, url = settings.server.farm, url_for(settings, peer)
    if (farm and farm != own) or not url:
        return None
    # Anyone can send this: no database is asked about half a character or a NUL byte.
    key = key_of(token) if TOKEN_ID.match(token) else None
    return {"coalition": VERSION, "farm": own, "url": url, "nonce": nonce, "mac": mac(key, nonce, own, url) if key else ""}


def url_for(settings: Settings, peer: str) -> str:
    """This server's address as `peer` can use it; empty when it cannot."""
    if settings.server.url:
        return settings.server.url
    address = ipaddress.ip_address(peer.partition("%")[0])
    address = getattr(address, "ipv4_mapped", None) or address
    if LOOPBACK.match(settings.host):
        return settings.url if address.is_loopback else ""
    if settings.host not in ("0.0.0.0", "::"):  # noqa: S104 - compared, not bound
        return settings.url
    with socket.socket(socket.AF_INET if address.version == 4 else socket.AF_INET6, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((str(address), 9))  # sends nothing; shows which of our addresses faces the peer
        except OSError:  # an address of a link, without which link
            return ""
        own = probe.getsockname()[0]
    scheme = "https" if settings.server.tls_cert else "http"
    return f"{scheme}://{own if address.version == 4 else f'[{own}]'}:{settings.port}"
