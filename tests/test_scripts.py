"""What make calls: the targets, the installation, Debian packages and the parts of the demo."""

from __future__ import annotations

import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from coalition import config
from coalition.client import Client
from scripts import audit, demo, install, packages, renderers

ROOT = Path(__file__).resolve().parent.parent
MAKEFILE = (ROOT / "Makefile").read_text()
TARGETS = re.findall(r"^([a-z]+):", MAKEFILE, re.MULTILINE)
Stub = Callable[[str, str], Path]


@pytest.fixture
def stub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Stub:
    """Writes a command into a folder that is the whole PATH."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.setattr(packages, "POLICY", tmp_path / "policy-rc.d")

    def write(name: str, script: str) -> Path:
        path = folder / name
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)
        return path

    return write


@pytest.fixture
def as_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)


# ---------------------------------------------------------------- make


def test_make_help_is_the_default_and_lists_every_target() -> None:
    listed = subprocess.run(["make"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert sorted(re.findall(r"^  make (\w+) +\w", listed, re.MULTILINE)) == sorted(TARGETS)


@pytest.mark.parametrize("path", [*sorted((ROOT / "scripts").glob("*.sh")), ROOT / ".ci" / "run"], ids=lambda path: path.name)
def test_shell_scripts_can_be_run_and_stop_at_an_error(path: Path) -> None:
    assert os.access(path, os.X_OK)
    assert re.search(r"^set -eu", path.read_text(), re.MULTILINE)


def test_ci_calls_make_test_and_allows_nothing_to_be_skipped() -> None:
    script = (ROOT / ".ci" / "run").read_text()
    assert "make test" in script
    assert "CI=true" in script


# ---------------------------------------------------------------- make install


def test_install_without_a_new_enough_python_says_so(tmp_path: Path) -> None:
    (tmp_path / "scripts").mkdir()
    script = shutil.copy(ROOT / "scripts" / "install.sh", tmp_path / "scripts")
    done = subprocess.run([script], env={**os.environ, "PYTHON": "false"}, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "no Python 3.11 or newer" in done.stderr


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A tree for install.py with an environment whose Python is a stub."""
    for name in install.DEFINED_BY:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text('[build-system]\nrequires = ["setuptools"]\n')
    venv = tmp_path / ".venv"
    (venv / "bin").mkdir(parents=True)
    for name, value in {"ROOT": tmp_path, "VENV": venv, "PYTHON": venv / "bin" / "python"}.items():
        monkeypatch.setattr(install, name, value)
    monkeypatch.setattr(install, "STAMP", venv / install.STAMP.name)
    monkeypatch.setattr(install, "UNFINISHED", venv / install.UNFINISHED.name)
    (venv / "bin" / "python").write_text('#!/bin/sh\necho "$@" >> "$0.calls"\n')
    (venv / "bin" / "python").chmod(0o755)
    return tmp_path


def test_an_installation_is_up_to_date_until_what_defines_it_changes(tree: Path) -> None:
    assert not install.up_to_date()
    install.make_environment()
    assert install.up_to_date()
    (tree / "setup.py").write_text("two")
    assert not install.up_to_date()


def test_an_activated_environment_is_made_anew_by_another_python(tmp_path: Path) -> None:
    (tmp_path / "scripts").mkdir()
    script = shutil.copy(ROOT / "scripts" / "install.sh", tmp_path / "scripts")
    (tmp_path / "scripts" / "install.py").write_text("import sys; print(sys.executable)")
    own = tmp_path / ".venv" / "bin"
    own.mkdir(parents=True)
    (own / "python3").write_text("#!/bin/sh\necho activated\n")
    (own / "python3").chmod(0o755)
    path = f"{own}:{Path(sys.executable).parent}:{os.environ['PATH']}"
    done = subprocess.run([script], env={**os.environ, "PATH": path}, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == str(Path(sys.executable).parent / "python3")


def test_only_its_own_python_cannot_make_the_environment(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(install, "LOCK", tree / "lock")
    assert install.main() == 0, "another environment's can"
    monkeypatch.setattr(install, "VENV", Path(sys.prefix))
    install.STAMP.unlink()
    assert install.main() == install.OUT_OF_DATE


def test_an_environment_that_was_cut_off_or_has_no_python_is_not_used(tree: Path) -> None:
    assert install.sound(install.PYTHON)
    install.UNFINISHED.touch()
    assert not install.sound(install.PYTHON)
    install.UNFINISHED.unlink()
    install.PYTHON.unlink()
    assert not install.sound(install.PYTHON)


def test_when_pip_fails_the_environment_is_kept_but_not_taken_for_done(tree: Path) -> None:
    install.PYTHON.write_text('#!/bin/sh\n[ "$3" = --version ]\n')
    with pytest.raises(install.Failed, match="package index"):
        install.make_environment()
    assert install.sound(install.PYTHON)
    assert not install.up_to_date()


# ---------------------------------------------------------------- Debian packages


def test_a_package_that_is_there_needs_no_apt(stub: Stub) -> None:
    stub("povray", "exit 0")
    assert packages.ensure(["povray"]) is None


def test_without_apt_the_missing_package_is_named(stub: Stub) -> None:
    assert packages.ensure(["povray"]) == "missing: povray (no apt-get here to install them)"


def test_without_root_it_says_what_root_would_do(stub: Stub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    stub("apt-get", "exit 0")
    assert "as root: apt-get install --no-install-recommends povray" in str(packages.ensure(["povray"]))


@pytest.mark.usefixtures("as_root")
def test_when_apt_fails_its_reason_is_told(stub: Stub) -> None:
    stub("apt-get", 'echo "E: no network here" >&2; exit 100')
    trouble = packages.ensure(["povray"])
    assert trouble == "missing: povray (apt-get install: E: no network here)"
    assert not packages.POLICY.exists()


@pytest.mark.usefixtures("as_root")
def test_one_package_that_fails_does_not_keep_the_others_away(stub: Stub, tmp_path: Path) -> None:
    povray = tmp_path / "bin" / "povray"
    stub("apt-get", f'case "$*" in *shellcheck*) exit 100;; *install*povray) echo > {povray}; /bin/chmod +x {povray};; esac')
    assert str(packages.ensure(["povray", "shellcheck"])).startswith("missing: shellcheck (")
    assert packages.missing(["povray"]) == []


@pytest.mark.usefixtures("as_root")
def test_no_service_may_start_while_packages_are_installed_and_afterwards_they_may(stub: Stub, tmp_path: Path) -> None:
    povray = tmp_path / "bin" / "povray"
    stub("apt-get", f'[ -x {packages.POLICY} ] || exit 1; case "$*" in *povray) echo > {povray}; /bin/chmod +x {povray};; esac')
    assert packages.ensure(["povray"]) is None
    assert not packages.POLICY.exists()


@pytest.mark.usefixtures("as_root")
def test_a_policy_that_was_there_before_stays(stub: Stub) -> None:
    packages.POLICY.write_text("mine")
    stub("apt-get", "exit 100")
    packages.ensure(["povray"])
    assert packages.POLICY.read_text() == "mine"


# ---------------------------------------------------------------- the demo's parts


@pytest.mark.usefixtures("as_root")
def test_the_ray_tracer_renders_where_povray_cannot_be_installed(stub: Stub) -> None:
    stub("apt-get", "exit 100")
    renderer, trouble = renderers.choose()
    assert renderer == renderers.RAYTRACER
    assert "missing: povray" in str(trouble)


def test_a_povray_that_does_not_render_is_not_used(stub: Stub) -> None:
    stub("povray", "exit 0")
    renderer, trouble = renderers.choose()
    assert renderer == renderers.RAYTRACER
    assert "does not render" in str(trouble)


def test_the_ray_tracer_understands_the_demos_command() -> None:
    assert renderers.works(renderers.RAYTRACER)


@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_DGRAM], ids=["tcp", "udp"])
def test_a_port_in_use_means_another_one(kind: socket.SocketKind) -> None:
    with socket.socket(type=kind) as busy:
        busy.bind(("127.0.0.1", 0))
        if kind == socket.SOCK_STREAM:
            busy.listen()
        port = busy.getsockname()[1]
        assert demo.free_port(port) not in (0, port)


def test_a_free_port_is_taken() -> None:
    port = demo.free_port(0)
    assert demo.free_port(port) == port


def test_the_demos_configuration_is_valid_and_stays_on_this_machine(tmp_path: Path) -> None:
    text = demo.CONFIG.format(farm="demo-1", port=1234, data_dir=tmp_path, tag=demo.TAG, machines=2)
    settings = config.parse(text)
    assert settings.host == "127.0.0.1"
    assert settings.pools[0].affinity == (demo.TAG,)
    assert settings.budgets[0].hard


def start(demo_run: demo.Demo, *command: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(command, env={**os.environ, demo.MARK: demo_run.farm}, start_new_session=True)


def test_what_a_demo_started_is_found_and_ended_and_nothing_else(tmp_path: Path) -> None:
    # They are looked for in the whole machine, where other tests may run: the names are theirs alone.
    mine, other = (demo.Demo(tmp_path / name, f"demo-{name}-{secrets.token_hex(6)}", port) for name, port in (("a", 1), ("b", 2)))
    stubborn = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)"
    processes = [start(mine, "sleep", "600"), start(mine, sys.executable, "-c", stubborn)]
    bystander = start(other, "sleep", "600")
    try:
        assert sorted(one.pid for one in demo.remaining(mine)) == sorted(one.pid for one in processes)
        demo.end(demo.remaining(mine))
        assert [one.poll() is not None for one in processes] == [True, True]
        assert demo.remaining(mine) == []
        assert psutil.pid_exists(bystander.pid)
        assert bystander.poll() is None
    finally:
        for process in (*processes, bystander):
            process.kill()
            process.wait()


def test_a_server_that_ends_at_its_start_is_told_at_once() -> None:
    server = subprocess.Popen(["false"])
    server.wait()
    with pytest.raises(demo.Failed, match="exit code 1"):
        demo.healthy(Client(f"http://127.0.0.1:{demo.free_port(0)}"), server)


def test_a_second_interruption_does_not_disturb_cleaning_up() -> None:
    with demo.uninterrupted():
        signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_an_audit_tells_faults_and_that_nothing_could_be_looked_up() -> None:
    fault = {"id": "PYSEC-1", "fix_versions": ["2.0"]}
    bad = {"name": "a", "version": "1.0", "vulns": [fault]}
    good, unknown = {"name": "b", "version": "1.0", "vulns": []}, {"name": "c", "skip_reason": "not found"}
    assert audit.judged({"dependencies": [bad, good]}, False) == (1, ["a 1.0: PYSEC-1, mended in 2.0"])
    assert audit.judged({"dependencies": [good, unknown]}, True)[0] == 0
    for must in (False, True):
        code, (words,) = audit.judged({"dependencies": [unknown]}, must)
        assert (code, "nothing was looked up" in words) == (int(must), True)
