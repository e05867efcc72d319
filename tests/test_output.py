"""How values read, and the forms of a table."""

from __future__ import annotations

import json

import pytest

from coalition import output
from coalition.output import Screen, columns


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (None, ""),
        (0, "0s"),
        (0.44, "0.4s"),
        (9.96, "10s"),
        (59.6, "1m 00s"),
        (200, "3m 20s"),
        (7_500, "2h 05m"),
        (273_600, "3d 4h"),
        (-3, "0s"),
    ],
)
def test_durations(seconds: float | None, words: str) -> None:
    assert output.duration(seconds) == words


@pytest.mark.parametrize(
    ("micro", "words"),
    [
        (None, ""),
        (0, "0.00 USD"),
        (12_345_678, "12.35 USD"),
        (1_234_000_000, "1,234.00 USD"),
        (48_000, "0.0480 USD"),
        (7, "0.000007 USD"),
        (-2_500_000, "-2.50 USD"),
    ],
)
def test_money_shows_its_currency_and_as_many_decimals_as_it_needs(micro: int | None, words: str) -> None:
    assert output.money(micro, "USD") == words


@pytest.mark.parametrize(("count", "words"), [(0, "0B"), (512, "512B"), (1_536, "1.5K"), (2**33, "8G"), (2**60, "1024P")])
def test_sizes(count: int, words: str) -> None:
    assert output.size(count) == words


def test_texts_of_others_cannot_command_the_terminal() -> None:
    assert output.clean("a\x1b[2J\nb\x07\u202ec") == "a?[2J b??c"


ROWS = [[1, "first [red]title[/red]", None], [22, "sec\x1bond", "x"]]
HEADS = "ID> TITLE* LAST_SEEN"


def test_a_table_is_plain_columns_where_there_is_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    Screen().table({}, HEADS, ROWS, "none")
    assert capsys.readouterr().out.splitlines() == [
        "ID  TITLE                   LAST SEEN",
        " 1  first [red]title[/red]",
        "22  sec?ond                 x",
    ]


def test_a_table_is_one_document_or_ids_only_when_asked(capsys: pytest.CaptureFixture[str]) -> None:
    Screen(json=True, quiet=True).table({"rows": [1, 22]}, HEADS, ROWS, "none")
    assert json.loads(capsys.readouterr().out) == {"rows": [1, 22]}
    Screen(quiet=True).table({}, HEADS, ROWS, "none")
    assert capsys.readouterr().out == "1\n22\n"


def test_an_empty_table_says_so_on_the_error_stream(capsys: pytest.CaptureFixture[str]) -> None:
    Screen().table({}, HEADS, [], "no jobs")
    shown = capsys.readouterr()
    assert (shown.out, shown.err) == ("", "no jobs\n")


def test_a_table_on_a_narrow_terminal_shortens_the_wide_column(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    output._rich_table(columns(HEADS), [["1", "a title that is much longer than the terminal", "5m"]])
    head, row = capsys.readouterr().out.splitlines()
    assert len(row) <= 40
    assert row.startswith(" 1  a title that")
    assert row.rstrip().endswith("5m")
    assert "LAST SEEN" in head
