"""The Pythons that Coalition runs on: `nox` runs what follows on each that is found, and says which are missing.

Client and worker run on 3.10 and later, the server on 3.11 and later. The sources' own tests are `make test`, on one Python.
"""

import os
from pathlib import Path

import nox

nox.options.error_on_missing_interpreters = False
CLIENT = ["3.10", "3.11", "3.12", "3.13"]
SERVER = ["3.11", "3.12", "3.13"]
TESTS = ["test_model.py", "test_frames.py", "test_hours.py", "test_matching.py", "test_errors.py", "test_states.py"]


@nox.session(python=CLIENT)
def client(session: nox.Session) -> None:
    """The base install: wire model and rules; client and worker import without a server's libraries."""
    session.install(".", "pytest", "pytest-timeout", "hypothesis")
    session.run("python", "-c", "import coalition.client, coalition.config")
    if os.name == "posix":  # the worker does not run elsewhere yet
        session.run("python", "-c", "import coalition.worker")
    session.run("coalition", "--version")
    tests = [str(Path("tests", name)) for name in TESTS]
    session.run("python", "-m", "pytest", "--noconftest", "-p", "no:cacheprovider", *tests)


@nox.session(python=SERVER)
def server(session: nox.Session) -> None:
    """Server and worker from the wheel, for real: a job is submitted, run, and its log read."""
    session.install(".[server]")
    session.run("python", "scripts/smoke.py")


@nox.session
def audit(session: nox.Session) -> None:
    """Known faults of the libraries that a server has, where PyPI's list of them can be reached."""
    session.install(".[all]")
    session.run("python", "scripts/audit.py", "--must")
