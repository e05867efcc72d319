"""A gzip file that is read from any byte: members of equal size, and an index that gzip itself takes for empty members.

    block...   each a gzip member of `block` bytes of text, the last one shorter
    index      an empty member; its extra field "CX" holds the compressed length of each block, 4 bytes each
    end        an empty member of END bytes; its extra field "CE" holds: where the index begins, size of the text, block, cut

`zcat` and every gzip library give the whole text. Numbers are little-endian; `cut` is one more than the byte at which the log was
cut, 0 for a whole one. RFC 1952 describes members and extra fields.
"""

from __future__ import annotations

import struct
import zlib
from array import array
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import accumulate
from typing import BinaryIO

BLOCK = 256 << 10
MAX_BLOCKS = 16_000  # what an extra field of 64 KB has room for
HEAD = b"\x1f\x8b\x08%c\0\0\0\0\0\xff"  # deflate; the flags; no time, no hint, no system
WITH_EXTRA = 4
ENTRY = struct.Struct("<QQQQ")
END = 10 + 2 + 4 + ENTRY.size + 2 + 8
Read = Callable[[int, int], bytes]  # (offset, count) -> the bytes, fewer at the end


@dataclass(frozen=True)
class Index:
    """Where the blocks of a zipped text lie."""

    size: int
    block: int
    cut: int | None
    starts: tuple[int, ...]  # one more than there are blocks: where the index begins


def compress(read: Read, size: int, cut: int | None, file: BinaryIO) -> None:
    """Writes the `size` bytes that `read` gives, block by block."""
    block = max(BLOCK, -(-size // MAX_BLOCKS))
    lengths = array("I", (file.write(_member(read(start, min(block, size - start)))) for start in range(0, size, block)))
    file.write(_member(b"", b"CX", b"".join(struct.pack("<I", length) for length in lengths)))
    file.write(_member(b"", b"CE", ENTRY.pack(sum(lengths), size, block, 0 if cut is None else cut + 1)))


def _member(text: bytes, name: bytes = b"", extra: bytes = b"") -> bytes:
    field = struct.pack("<H2sH", len(extra) + 4, name, len(extra)) + extra if name else b""
    packer = zlib.compressobj(6, zlib.DEFLATED, -zlib.MAX_WBITS)
    body = packer.compress(text) + packer.flush()
    return HEAD % (WITH_EXTRA if name else 0) + field + body + struct.pack("<II", zlib.crc32(text), len(text))


def index_of(read: Read, length: int) -> Index:
    """The index of a zipped text of `length` bytes; ValueError if it is none of ours."""
    end = read(length - END, END) if length >= END else b""
    if len(end) != END or end[12:14] != b"CE":
        raise ValueError("not a log that was compressed here, or not whole")
    where, size, block, cut = ENTRY.unpack_from(end, 16)
    packed = read(where + 16, length - END - where - 16)
    lengths = (number for (number,) in struct.iter_unpack("<I", packed[: 4 * -(-size // block)]))
    return Index(size, block, cut - 1 if cut else None, tuple(accumulate(lengths, initial=0)))


def read_range(read: Read, index: Index, offset: int, count: int) -> bytes:
    """Up to `count` bytes of the text from `offset`; no more than one block beyond that is unpacked."""
    stop = min(offset + count, index.size)
    if offset >= stop:
        return b""
    first, last = offset // index.block, (stop - 1) // index.block
    text = b"".join(_unpacked(read, index, first, last))
    skip = offset - first * index.block
    return text[skip : skip + stop - offset]


def _unpacked(read: Read, index: Index, first: int, last: int) -> Iterator[bytes]:
    begin = index.starts[first]
    packed = read(begin, index.starts[last + 1] - begin)
    for number in range(first, last + 1):
        yield zlib.decompress(packed[index.starts[number] - begin : index.starts[number + 1] - begin], wbits=31)
