"""Logs of attempts: appended at offsets, read in ranges, whatever the bytes."""

from __future__ import annotations

from multiprocessing import get_context
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coalition.errors import LogGap
from coalition.logs import MAX_READ, LocalLogs, Piece

Process = get_context("spawn").Process  # fork would copy this process's threads


@pytest.fixture
def logs(tmp_path: Path) -> LocalLogs:
    return LocalLogs(tmp_path / "logs", limit=1_000)


def test_pieces_make_one_log(logs: LocalLogs) -> None:
    assert logs.append(7, 0, b"one\n") == 4
    assert logs.append(7, 4, b"two\n") == 8
    assert logs.read(7) == Piece(b"one\ntwo\n", 0, 8)


def test_a_repeated_or_overlapping_piece_adds_only_what_is_new(logs: LocalLogs) -> None:
    logs.append(7, 0, b"abcdef")
    assert logs.append(7, 0, b"abc") == 6
    assert logs.append(7, 4, b"efgh") == 8
    assert logs.read(7).data == b"abcdefgh"


def test_a_gap_is_refused_with_the_place_to_send_from(logs: LocalLogs) -> None:
    logs.append(7, 0, b"abc")
    with pytest.raises(LogGap) as refused:
        logs.append(7, 5, b"x")
    assert (refused.value.offset, logs.size(7)) == (3, 3)


def test_bytes_stay_as_they_are(logs: LocalLogs) -> None:
    every_byte = bytes(range(256))
    logs.append(1, 0, every_byte)
    assert logs.read(1).data == every_byte


def test_a_log_that_grows_too_large_is_cut_and_says_so_once(logs: LocalLogs) -> None:
    sent = 0
    for _ in range(5):
        sent = logs.append(7, sent, b"x" * 400)
    assert sent == 2_000  # the writer goes on as if all were kept
    text = logs.read(7).data
    assert text.startswith(b"x" * 1_000 + b"\n* the log is cut here")
    assert text.count(b"cut here") == 1


def test_a_range_is_read_from_either_end(logs: LocalLogs) -> None:
    logs.append(7, 0, b"0123456789")
    assert logs.read(7, 3, 4) == Piece(b"3456", 3, 10)
    assert logs.read(7, -4) == Piece(b"6789", 6, 10)
    assert logs.read(7, -99, 2) == Piece(b"01", 0, 10)
    assert logs.read(7, 99) == Piece(b"", 10, 10)


def test_a_log_that_was_never_written_is_empty(logs: LocalLogs) -> None:
    assert (logs.read(5), logs.size(5)) == (Piece(b"", 0, 0), 0)


def test_one_answer_is_never_larger_than_the_limit(tmp_path: Path) -> None:
    logs = LocalLogs(tmp_path, limit=MAX_READ * 3)
    logs.append(1, 0, b"x" * (MAX_READ + 10))
    assert len(logs.read(1, limit=MAX_READ * 2).data) == MAX_READ


def append_all(folder: Path, pieces: list[tuple[int, bytes]]) -> None:
    logs = LocalLogs(folder, limit=100_000)
    for offset, data in pieces:
        logs.append(3, offset, data)


def test_repeats_from_several_processes_at_once_leave_one_log(tmp_path: Path) -> None:
    pieces = [(number * 10, bytes([65 + number % 26]) * 10) for number in range(500)]
    processes = [Process(target=append_all, args=(tmp_path, pieces)) for _ in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0] * 4
    assert LocalLogs(tmp_path, limit=100_000).read(3).data == b"".join(data for _, data in pieces)


@settings(max_examples=50, deadline=None)
@given(text=st.binary(max_size=200), cuts=st.lists(st.tuples(st.integers(0, 200), st.integers(0, 60)), max_size=20))
def test_whatever_is_sent_twice_or_late_the_log_is_a_start_of_the_text(
    tmp_path_factory: pytest.TempPathFactory, text: bytes, cuts: list[tuple[int, int]]
) -> None:
    logs = LocalLogs(tmp_path_factory.mktemp("logs"), limit=1_000)
    for offset, length in cuts:
        offset = min(offset, logs.size(1))
        logs.append(1, offset, text[offset : offset + length])
    assert text.startswith(logs.read(1).data)
