"""A TOML file that describes jobs: groups, frames, dependencies, limits. docs/job-files.md says how it is written."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

from coalition.errors import BadInput, nearest
from coalition.model import JobSpec, defaults, from_dict
from coalition.values import a_duration, a_size

UNITS: Mapping[str, Callable[[str], object]] = {"_s": a_duration, "_bytes": a_size}
FIELDS = tuple(defaults(JobSpec))
MAX_DEPTH = 100


def is_job_file(words: tuple[str, ...]) -> bool:
    """Whether what is to be submitted is a file such as this, and no command."""
    if not words or not words[0].endswith(".toml"):
        return False
    # A name that is not there is mistyped; a line for a shell has blanks.
    return Path(words[0]).is_file() or (len(words) == 1 and not re.search(r"\s", words[0]))


def read(path: str | Path) -> list[JobSpec]:
    """The jobs of a file. BadInput names the file, the key and the nearest valid name."""
    try:
        facts = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}") from None
    except tomllib.TOMLDecodeError as error:
        raise BadInput(f"{path}: is not TOML: {error}") from None
    try:
        return _jobs(facts)
    except BadInput as error:
        raise BadInput(f"{path}: {error}", fields=error.fields) from None


def _jobs(facts: Mapping[str, Any]) -> list[JobSpec]:
    unknown = next((key for key in facts if key != "jobs"), None)
    if unknown is not None:
        raise BadInput(fields={unknown: f"unknown key; {nearest(unknown, ['jobs'])}: each job is a [[jobs]]"})
    jobs = facts.get("jobs")
    if not isinstance(jobs, list) or not jobs:
        raise BadInput(fields={"jobs": "is missing; each job is a [[jobs]]"})
    return [from_dict(JobSpec, _plain(job, f"jobs[{index}]"), f"jobs[{index}]") for index, job in enumerate(jobs)]


def _plain(job: Any, place: str, depth: int = 0) -> Any:
    """A job's table with the fields' own names and units: `timeout = "30m"` is timeout_s, `memory = "8G"` memory_bytes."""
    if not isinstance(job, dict) or depth > MAX_DEPTH:
        return job
    plain = dict(_field(key, value, place) for key, value in job.items())
    children = plain.get("children")
    if isinstance(children, list):
        plain["children"] = [_plain(child, f"{place}.children[{n}]", depth + 1) for n, child in enumerate(children)]
    return plain


def _field(key: str, value: Any, place: str) -> tuple[str, Any]:
    for unit, reader in UNITS.items():
        name = key if key in FIELDS else key + unit
        if name in FIELDS and name.endswith(unit):
            try:
                return name, reader(value) if isinstance(value, str) else value
            except ValueError as error:
                raise BadInput(fields={f"{place}.{key}": f'"{value[:80]}" is not {error}'}) from None
    return key, value
