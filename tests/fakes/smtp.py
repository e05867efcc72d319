"""An SMTP server and a receiver of webhooks that keep what comes, and refuse when told to; a certificate for both."""

from __future__ import annotations

import datetime
import ipaddress
import json
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from email import message_from_bytes
from email.message import EmailMessage
from email.policy import default
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from aiosmtpd.controller import Controller
from aiosmtpd.smtp import AuthResult
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec


def certificate(folder: Path) -> Path:
    """A file with a key and a certificate of its own for 127.0.0.1."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "sink")])
    now = datetime.datetime.now(datetime.timezone.utc)
    built = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    kind = serialization.PrivateFormat.PKCS8
    text = key.private_bytes(serialization.Encoding.PEM, kind, serialization.NoEncryption())
    path = folder / "sink.pem"
    path.write_bytes(text + built.public_bytes(serialization.Encoding.PEM))
    return path


@dataclass
class Inbox:
    """What has arrived, and what the server is to say."""

    port: int = 0
    mails: list[EmailMessage] = field(default_factory=list)
    envelopes: list[tuple[str, list[str]]] = field(default_factory=list)
    logins: list[bytes] = field(default_factory=list)
    refuse: dict[str, str] = field(default_factory=dict)  # address -> answer
    busy: bool = False

    async def handle_RCPT(self, server: Any, session: Any, envelope: Any, address: str, options: Any) -> str:
        if address in self.refuse:
            return self.refuse[address]
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:
        if self.busy:
            return "451 come again"
        mail = message_from_bytes(envelope.content, policy=default)
        assert isinstance(mail, EmailMessage)
        self.mails.append(mail)
        self.envelopes.append((envelope.mail_from, envelope.rcpt_tos))
        return "250 OK"

    def prove(self, server: Any, session: Any, envelope: Any, mechanism: str, data: Any) -> AuthResult:
        self.logins.append(data.login)
        return AuthResult(success=(data.login, data.password) == (b"farm", b"hunter2"))

    def of(self, address: str) -> list[EmailMessage]:
        return [mail for mail in self.mails if mail["To"] == address]


@contextmanager
def inbox(security: str = "none", pem: Path | None = None, login: bool = False, port: int = 0) -> Iterator[Inbox]:
    """A server with a port of its own."""
    made = Inbox()
    context = None
    if pem:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(pem)
    options: dict[str, Any] = {"authenticator": made.prove, "auth_required": True} if login else {}
    if security == "tls":
        options |= {"auth_require_tls": False, "auth_required": False}  # to it, TLS is STARTTLS only
    if security == "starttls":
        options |= {"tls_context": context, "require_starttls": True}
    sink = _Sink(made, hostname="127.0.0.1", port=port, ssl_context=context if security == "tls" else None, **options)
    sink.start()
    made.port = sink.server.sockets[0].getsockname()[1]
    try:
        yield made
    finally:
        sink.stop()


class _Sink(Controller):  # type: ignore[misc]
    """Calls itself at its start, as it does, at the port that it was given."""

    def _trigger_server(self) -> None:
        self.port = self.server.sockets[0].getsockname()[1]
        super()._trigger_server()


@dataclass
class Calls:
    """What a webhook's address was told."""

    url: str = ""
    bodies: list[Any] = field(default_factory=list)
    raw: list[bytes] = field(default_factory=list)
    headers: list[Any] = field(default_factory=list)
    statuses: list[int] = field(default_factory=list)  # of the next calls; then 204


@contextmanager
def receiver() -> Iterator[Calls]:
    """An HTTP server for webhooks."""
    made = Calls()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            made.raw.append(self.rfile.read(int(self.headers["Content-Length"])))
            made.bodies.append(json.loads(made.raw[-1]))
            made.headers.append(self.headers)
            self.send_response(made.statuses.pop(0) if made.statuses else 204)
            self.send_header("Location", made.url)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    made.url = f"http://127.0.0.1:{server.server_port}/hook?x=1"
    try:
        yield made
    finally:
        server.shutdown()
        thread.join(10)
        server.server_close()
