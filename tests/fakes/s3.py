"""An S3-compatible store: moto's real server over HTTP, in a thread of this process, on a free port."""

from __future__ import annotations

import logging
import secrets
from collections.abc import Iterator
from contextlib import contextmanager

import boto3
from moto.server import ThreadedMotoServer

from coalition.config import LogStoreSettings


@contextmanager
def object_store() -> Iterator[str]:
    """The store's address."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    try:
        yield f"http://{host}:{port}"
    finally:
        server.stop()


def new_bucket(endpoint: str) -> LogStoreSettings:
    """An empty bucket there, as `[log_store]` would name it."""
    name = f"logs-{secrets.token_hex(8)}"
    boto3.client("s3", endpoint_url=endpoint, region_name="us-east-1").create_bucket(Bucket=name)
    return LogStoreSettings(kind="s3", bucket=name, endpoint=endpoint, region="us-east-1")
