"""The server's certificate, read again when it was renewed: new connections get the new one, those that are there go on."""

from __future__ import annotations

import logging
import os
import ssl
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from coalition.config import ServerSettings
from coalition.errors import ConfigError

log = logging.getLogger("coalition.server")
Stamp = tuple[tuple[int, int, int], ...]


class Certificate:
    """Thread-safe. What cannot be used, such as a new certificate whose key is still to come, is told once and left aside."""

    def __init__(self, settings: ServerSettings) -> None:
        """ConfigError for files that cannot be used."""
        self.files = tuple(Path(name).expanduser() for name in (settings.tls_cert, settings.tls_key))
        self._lock = threading.Lock()
        try:
            self._seen = self._stamp()
            self._context = self._read()
        except OSError as error:  # also ssl.SSLError
            raise ConfigError(
                f"[server] tls_cert: {self.files[0]} and tls_key cannot be used: {error.strerror or error}"
            ) from None

    def for_gunicorn(self, conf: Any, default: Callable[[], ssl.SSLContext]) -> ssl.SSLContext:
        """gunicorn asks this for each connection."""
        return self.context()

    def context(self) -> ssl.SSLContext:
        """What the next connection is served with."""
        with self._lock:
            try:
                stamp = self._stamp()
                if stamp != self._seen:
                    self._seen = stamp
                    self._context = self._read()
                    log.info("the certificate in %s was renewed", self.files[0])
            except OSError as error:
                log.warning("the certificate in %s cannot be used, the one before is: %s", self.files[0], error)
            return self._context

    def _stamp(self) -> Stamp:
        found = (os.stat(file) for file in self.files)
        return tuple((one.st_mtime_ns, one.st_size, one.st_ino) for one in found)

    def _read(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.load_cert_chain(self.files[0], self.files[1])
        context.set_alpn_protocols(["http/1.1"])
        return context
