"""From nothing to a server: `coalition init`, and the files in deploy/."""

from __future__ import annotations

import configparser
import re
import shlex
import subprocess
from pathlib import Path

import click
import pytest
import yaml

from coalition import cli, config
from coalition.store import Store
from scripts import packages
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


# ---------------------------------------------------------------- containers

COMPOSE = ROOT / "deploy" / "compose"
DOCUMENT = yaml.safe_load((COMPOSE / "compose.yaml").read_text(encoding="utf-8"))
SERVICES = DOCUMENT["services"]


def test_containers_get_files_that_are_here_or_that_the_readme_makes() -> None:
    readme = (COMPOSE / "README.md").read_text(encoding="utf-8")
    for secret in DOCUMENT["secrets"].values():
        assert f"> {secret['file']}" in readme
    mounted = [volume.split(":") for service in SERVICES.values() for volume in service["volumes"]]
    for source, *_ in mounted:
        assert (COMPOSE / source).is_file() if source.startswith("./") else source in DOCUMENT["volumes"]
    assert (ROOT / SERVICES["server"]["build"]["dockerfile"]).is_file()
    secrets = [secret for service in SERVICES.values() for secret in service.get("secrets", [])]
    named = {secret if isinstance(secret, str) else secret["source"] for secret in secrets}
    assert named == set(DOCUMENT["secrets"])
    assert {network for one in SERVICES.values() for network in one["networks"]} == set(DOCUMENT["networks"])


def test_only_the_proxy_is_open_to_all_and_the_database_to_nobody() -> None:
    assert "ports" not in SERVICES["database"]
    assert SERVICES["database"]["networks"] == ["inside"]
    assert DOCUMENT["networks"]["inside"] == {"internal": True}
    assert SERVICES["server"]["ports"] == ["${COALITION_WORKERS_ADDRESS:-127.0.0.1}:19211:19211/tcp"]
    assert SERVICES["server"]["cap_drop"] == SERVICES["caddy"]["cap_drop"] == ["ALL"]


def test_its_configuration_is_one_that_the_server_takes_and_holds_no_secret() -> None:
    settings = config.load(COMPOSE / "cloud.ini")
    assert (settings.server.listen, settings.auth.mode, settings.server.processes) == ("0.0.0.0:19211", "local", 2)
    assert "@" in settings.server.database
    assert not re.search(r"//[^@/]*:[^@/]*@", settings.server.database)


def test_commands_of_the_containers_readme_are_ones_that_coalition_takes() -> None:
    lines = re.findall(r"exec server (coalition .*)", (COMPOSE / "README.md").read_text(encoding="utf-8"))
    assert len(lines) == 2
    for line in lines:
        command: click.Command = cli.cli
        words, context = shlex.split(line)[1:], None
        while isinstance(command, click.Group):
            context = command.make_context("coalition", words, parent=context)
            words = [*context._protected_args, *context.args]
            found = command.get_command(context, words.pop(0))
            assert found is not None, line
            command = found
        command.make_context("coalition", words, parent=context)


def test_the_proxys_file_is_one_that_caddy_takes() -> None:
    if why := packages.ensure(["caddy"]):
        pytest.skip(why)
    environment = {"COALITION_NAME": "farm.example.org", "PATH": "/usr/bin:/bin", "HOME": "/nonexistent"}
    told = ["caddy", "adapt", "--validate", "--config", str(COMPOSE / "Caddyfile")]
    done = subprocess.run(told, env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert '"dial":"server:19211"' in done.stdout
    form = ["caddy", "fmt", str(COMPOSE / "Caddyfile")]
    formatted = subprocess.run(form, env=environment, capture_output=True, text=True, timeout=60)
    assert formatted.stdout == (COMPOSE / "Caddyfile").read_text(encoding="utf-8")


def test_the_image_runs_as_nobody_special() -> None:
    lines = (COMPOSE / "Dockerfile").read_text(encoding="utf-8").splitlines()
    assert "USER coalition" in lines
    assert lines.index("USER coalition") < next(number for number, line in enumerate(lines) if line.startswith("ENTRYPOINT"))
    assert not any(line.startswith("ADD ") for line in lines)
