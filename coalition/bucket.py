"""Where logs lie: an S3-compatible bucket. Any number of servers on any number of machines may use it at a time.

    PREFIX/000012/120345.log/0000000000004096     a part of the open log of attempt 120345, from byte 4,096 on
    PREFIX/000012/120345.log.gz                   its closed log

Objects cannot grow, so what is added is a part of its own, put there only if nobody was faster; when they are many, they are
joined into one that takes the place of the first. Parts may overlap, for a moment or after a crash: the bytes are the same. boto3
is imported when a Bucket is made, and finds its credentials as always: in the environment, its files, or the machine's role.
"""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from itertools import groupby
from typing import TYPE_CHECKING, Any, BinaryIO

from coalition.errors import ConfigError, Unavailable
from coalition.shelves import CLOSED, FOLDER_OF, OPEN, Closed, Entry, OpenLog, Stale

if TYPE_CHECKING:
    from coalition.config import LogStoreSettings

JOIN_PARTS = 64  # so many parts are joined
JOIN_BYTES = 8 << 20  # or so much
REMEMBERED = 10_000  # attempts whose parts are known without looking
LOCKS = 64
TAIL = 1_024
NOT_THERE = ("404", "NoSuchKey", "NotFound")
LOST_RACE = ("412", "PreconditionFailed", "409", "ConditionalRequestConflict")
Part = tuple[int, int]  # where it begins, how long it is


class Bucket:
    """The logs in a bucket, below a prefix."""

    def __init__(self, settings: LogStoreSettings) -> None:
        import boto3
        from boto3.exceptions import Boto3Error
        from botocore.config import Config
        from botocore.exceptions import BotoCoreError, ClientError

        options = Config(
            retries={"max_attempts": 3, "mode": "standard"},
            connect_timeout=5,
            read_timeout=30,
            max_pool_connections=64,
            # Other makers' stores know few of Amazon's newer checksums.
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
        )
        place = {"endpoint_url": settings.endpoint or None, "region_name": settings.region or None}
        self._s3 = boto3.session.Session().client("s3", config=options, **place)
        self._bucket = settings.bucket
        self._prefix = f"{settings.prefix.strip('/')}/".lstrip("/")
        self._refused, self._failed = ClientError, (Boto3Error, BotoCoreError, ClientError)
        self._known: dict[int, list[Part]] = {}
        self._tails: dict[int, tuple[int, bytes]] = {}  # where the log ended when we added to it, and what was before that
        self._locks = [threading.Lock() for _ in range(LOCKS)]

    # ------------------------------------------------------------ calls

    @contextmanager
    def _reaching(self, what: str) -> Iterator[None]:
        try:
            yield
        except self._failed as error:
            raise Unavailable(f"{what} in bucket {self._bucket}: {error}") from error

    def _code(self, error: Exception) -> str:
        return str(error.response["Error"]["Code"]) if isinstance(error, self._refused) else ""

    def check(self) -> None:
        """ConfigError when the bucket is not there or not for us; Unavailable when it cannot be reached now."""
        try:
            with self._reaching("logs cannot be kept"):
                self._s3.head_bucket(Bucket=self._bucket)
        except Unavailable as error:
            code = self._code(error.__cause__) if isinstance(error.__cause__, Exception) else ""
            if code in ("400", "403", "404", "NoSuchBucket"):
                raise ConfigError(f"[log_store] bucket: {self._bucket} cannot be used: {error.__cause__}") from None
            raise

    def _get(self, key: str, offset: int, count: int) -> bytes | None:
        """Bytes of an object; None when it is not there."""
        try:
            with self._reaching("a log cannot be read"):
                found = self._s3.get_object(Bucket=self._bucket, Key=key, Range=f"bytes={offset}-{offset + count - 1}")
                data: bytes = found["Body"].read()
                return data
        except Unavailable as error:
            if isinstance(error.__cause__, Exception) and self._code(error.__cause__) in NOT_THERE:
                return None
            raise

    def _look(self, key: str) -> Closed | None:
        """What an object is; None when it is not there. A list of a prefix tells the same, for ten times the money."""
        try:
            with self._reaching("a log cannot be found"):
                found = self._s3.head_object(Bucket=self._bucket, Key=key)
                return Closed(found["ContentLength"], found["ETag"])
        except Unavailable as error:
            if isinstance(error.__cause__, Exception) and self._code(error.__cause__) in NOT_THERE:
                return None
            raise

    def _list(self, prefix: str) -> Iterator[dict[str, Any]]:
        pages = self._s3.get_paginator("list_objects_v2").paginate(Bucket=self._bucket, Prefix=prefix)
        with self._reaching("logs cannot be listed"):
            for page in pages:
                yield from page.get("Contents", ())

    def _delete(self, keys: Iterable[str]) -> None:
        with self._reaching("a log cannot be deleted"):
            for key in keys:
                self._s3.delete_object(Bucket=self._bucket, Key=key)

    def _key(self, attempt: int, ending: str) -> str:
        return f"{self._prefix}{attempt // FOLDER_OF:06d}/{attempt}{ending}"

    def _part_key(self, attempt: int, start: int) -> str:
        return f"{self._key(attempt, OPEN)}/{start:016d}"

    # ------------------------------------------------------------ open logs

    @contextmanager
    def hold(self, attempt: int) -> Iterator[OpenLog]:
        with self._locks[attempt % LOCKS]:
            self.parts(attempt, fresh=True)  # another process may have added to it, joined its parts or closed it
            yield _Parts(self, attempt)

    def parts(self, attempt: int, fresh: bool = False) -> list[Part]:
        """The parts of an open log up to the first gap, in order; as they were seen last, or as they are."""
        if not fresh and attempt in self._known:
            return self._known[attempt]
        found: list[Part] = []
        end = 0
        begun = self._known.get(attempt) or self._look(self._part_key(attempt, 0))  # most logs are not begun, or closed
        for entry in self._list(self._key(attempt, OPEN) + "/") if begun else ():
            start = int(entry["Key"].rpartition("/")[2])
            if start > end:  # what is before it was lost, and is sent again
                break
            found.append((start, entry["Size"]))
            end = max(end, start + entry["Size"])
        if len(self._known) >= REMEMBERED:
            self._known.clear()
            self._tails.clear()
        self._known[attempt] = found
        return found

    def size(self, attempt: int) -> int | None:
        return _end(self.parts(attempt, fresh=True)) or None

    def read(self, attempt: int, offset: int, count: int) -> bytes:
        pieces, looked = [], False
        while count > 0:
            covering = [part for part in self.parts(attempt) if part[0] <= offset < sum(part)]
            data = None
            if covering:
                start, length = covering[-1]
                data = self._get(self._part_key(attempt, start), offset - start, min(count, start + length - offset))
            if not data:
                if looked:
                    break
                looked = True
                self.parts(attempt, fresh=True)  # they were joined meanwhile, or there are more
                continue
            pieces.append(data)
            offset, count = offset + len(data), count - len(data)
        return b"".join(pieces)

    def put_part(self, attempt: int, start: int, data: bytes) -> None:
        """Stale when another process has put one there."""
        try:
            with self._reaching("the log cannot be written"):
                self._s3.put_object(Bucket=self._bucket, Key=self._part_key(attempt, start), Body=data, IfNoneMatch="*")
        except Unavailable as error:
            self._known.pop(attempt, None)
            if isinstance(error.__cause__, Exception) and self._code(error.__cause__) in LOST_RACE:
                raise Stale from None
            raise
        parts = self.parts(attempt)
        at, before = self._tails.get(attempt, (0, b""))
        parts.append((start, len(data)))
        self._tails[attempt] = (start + len(data), ((before if at == start else b"") + data)[-TAIL:])
        self._join(attempt, parts)

    def tail(self, attempt: int, offset: int, count: int) -> bytes | None:
        """The bytes at the end of the log, where this process has put them there."""
        end, data = self._tails.get(attempt, (0, b""))
        known = end == offset + count == _end(self.parts(attempt)) and count <= len(data)
        return data[len(data) - count :] if known else None

    def _join(self, attempt: int, parts: list[Part]) -> None:
        """Puts the small parts at the end together, when they are many."""
        first = len(parts)
        while first and parts[first - 1][1] < JOIN_BYTES:
            first -= 1
        small = parts[first:]
        if len(small) < 2 or (len(small) < JOIN_PARTS and sum(length for _, length in small) < JOIN_BYTES):
            return
        start, end = small[0][0], _end(small)
        data = self.read(attempt, start, end - start)
        if len(data) < end - start:
            return
        with self._reaching("the log cannot be written"):
            self._s3.put_object(Bucket=self._bucket, Key=self._part_key(attempt, start), Body=data)
        self._delete(self._part_key(attempt, other) for other, _ in small if other != start)
        parts[first:] = [(start, end - start)]

    def drop(self, attempt: int) -> None:
        self._known.pop(attempt, None)
        self._tails.pop(attempt, None)
        self._delete(entry["Key"] for entry in self._list(self._key(attempt, OPEN) + "/"))

    # ------------------------------------------------------------ closed logs

    def closed(self, attempt: int) -> Closed | None:
        return self._look(self._key(attempt, CLOSED))

    def read_closed(self, attempt: int, offset: int, count: int) -> bytes:
        return self._get(self._key(attempt, CLOSED), offset, count) or b"" if count > 0 else b""

    def drop_closed(self, attempt: int) -> None:
        self._delete([self._key(attempt, CLOSED)])

    def scratch(self) -> AbstractContextManager[BinaryIO]:
        try:
            return tempfile.NamedTemporaryFile()  # type: ignore[return-value]  # typeshed has a class of its own for it
        except OSError as error:
            raise Unavailable(f"the log cannot be compressed: {error.strerror}") from error

    def place(self, attempt: int, file: BinaryIO, changed_at: float) -> None:
        from boto3.s3.transfer import TransferConfig

        file.flush()
        with self._reaching("the log cannot be written"):
            options = TransferConfig(use_threads=False)
            self._s3.upload_file(file.name, self._bucket, self._key(attempt, CLOSED), Config=options)

    def entries(self) -> Iterator[Entry]:
        for (number, ending), group in groupby(self._list(self._prefix), lambda entry: self._named(entry["Key"])):
            if number.isdigit() and ending in (OPEN, CLOSED):
                found = list(group)
                changed = max(entry["LastModified"].timestamp() for entry in found)
                yield Entry(int(number), changed, sum(entry["Size"] for entry in found), ending == CLOSED)

    def _named(self, key: str) -> tuple[str, str]:
        name = key.removeprefix(self._prefix).split("/")[1:2]
        number, _, ending = name[0].partition(".") if name else ("", "", "")
        return number, f".{ending}"


def _end(parts: list[Part]) -> int:
    return max((start + length for start, length in parts), default=0)


class _Parts:
    """An open log as parts."""

    def __init__(self, bucket: Bucket, attempt: int) -> None:
        self._bucket, self._attempt = bucket, attempt

    @property
    def size(self) -> int:
        return _end(self._bucket.parts(self._attempt))

    def read(self, offset: int, count: int) -> bytes:
        known = self._bucket.tail(self._attempt, offset, count)
        return self._bucket.read(self._attempt, offset, count) if known is None else known

    def write(self, offset: int, data: bytes) -> None:
        self._bucket.put_part(self._attempt, offset, data)

    def overwrite(self, offset: int, data: bytes) -> None:
        raise Unavailable("what is in a bucket is not changed")
