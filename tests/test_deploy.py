"""From nothing to a server: `coalition init`, and the files in deploy/."""

from __future__ import annotations

import configparser
from pathlib import Path

import pytest

from coalition import config
from coalition.store import Store
from tests.commands import coalition, document

ROOT = Path(__file__).resolve().parent.parent


def given(folder: Path, who: str, **more: str) -> list[str]:
    options = {"farm": "studio", "who": who, "port": "19300", "data-dir": str(folder / "data"), "database": "sqlite", **more}
    return [str(folder / "cloud.ini"), *(word for name, value in options.items() for word in (f"--{name}", value))]


def test_init_for_one_machine_writes_a_file_that_only_its_owner_reads(tmp_path: Path) -> None:
    told = coalition("init", *given(tmp_path, "me")).stdout
    path = tmp_path / "cloud.ini"
    settings = config.load(path)
    assert (settings.server.farm, settings.server.listen, settings.auth.mode) == ("studio", "127.0.0.1:19300", "none")
    assert path.stat().st_mode & 0o777 == 0o600
    assert f"coalition serve --config {path}" in told
    assert not (tmp_path / "data").exists()


def test_init_for_the_network_makes_the_first_secrets(tmp_path: Path) -> None:
    made = document("init", *given(tmp_path, "all", **{"enrol-from": "10.0.0.0/8"}))
    settings = config.load(made["file"])
    assert (settings.server.listen, settings.auth.mode) == ("0.0.0.0:19300", "token")
    for path in made["secrets"].values():
        assert Path(path).stat().st_mode & 0o777 == 0o600
    store = Store(settings)
    try:
        assert store.check_token(Path(made["secrets"]["admin"]).read_text().strip()) is not None
        assert store.check_token(Path(made["secrets"]["workers"]).read_text().strip()) is not None
    finally:
        store.close()


def test_init_touches_nothing_that_is_there(tmp_path: Path) -> None:
    (tmp_path / "cloud.ini").write_text("mine")
    told = coalition("init", *given(tmp_path, "all"), code=2).output
    assert "is there already" in told
    assert (tmp_path / "cloud.ini").read_text() == "mine"
    assert not (tmp_path / "data").exists()


def test_init_with_a_value_that_is_not_allowed_writes_nothing(tmp_path: Path) -> None:
    coalition("init", *given(tmp_path, "all", **{"enrol-from": "everywhere"}), code=2)
    assert list(tmp_path.iterdir()) == []


def test_the_servers_unit_runs_what_init_made(tmp_path: Path) -> None:
    unit = configparser.ConfigParser(strict=False, interpolation=None)
    unit.optionxform = str  # type: ignore[assignment,method-assign]
    unit.read(ROOT / "deploy" / "coalition.service")
    assert unit["Service"]["ExecStart"] == "/opt/coalition/bin/coalition serve --config /etc/coalition/cloud.ini"
    assert (unit["Service"]["NoNewPrivileges"], unit["Service"]["ProtectSystem"]) == ("yes", "strict")


@pytest.mark.parametrize("answers", ["studio\nme\n19300\n{data}\nsqlite\n"])
def test_without_flags_it_asks_five_questions(tmp_path: Path, answers: str) -> None:
    from click.testing import CliRunner

    from coalition.cli import cli

    result = CliRunner().invoke(cli, ["init", str(tmp_path / "c.ini")], input=answers.format(data=tmp_path / "d"))
    assert result.exit_code == 0, result.output
    assert config.load(tmp_path / "c.ini").server.farm == "studio"
