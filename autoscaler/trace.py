"""What a simulation reads: a trace of jobs in Standard Workload Format, and tables of prices and instance types.

The format: https://www.cs.huji.ac.il/labs/parallel/workload/swf.html. Of each line's 18 fields those used here are submit time,
run time, processors, user and executable (1, 3, 4, 11 and 13, from 0). Files may be compressed (.gz).
"""

from __future__ import annotations

import gzip
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from coalition.errors import ConfigError
from providers.base import Offering

MICRO = 1_000_000
TYPES_FILE = "aws-instance-types.tsv"  # looked for beside the prices
PRODUCTS = ("Linux/UNIX", "Linux", "")
SIZE = re.compile(r"(\d*)xlarge|(medium|large)")


@dataclass(frozen=True)
class Job:
    """A job that came at `submit` (seconds since 1970) and needs so many slots for `run_s` seconds. `kind` tells likes apart."""

    submit: float
    run_s: float
    slots: int = 1
    kind: str = ""


@dataclass(frozen=True)
class Type:
    cpus: int
    memory_bytes: int = 0
    gpus: int = 0


def read_jobs(path: Path) -> list[Job]:
    """The jobs of a trace that ran, by submit time. ConfigError tells the line that is none of the format."""
    jobs, begin = [], 0.0
    for number, line in _lines(path):
        if line.startswith(";"):
            begin = float(match[1]) if (match := re.match(r";\s*UnixStartTime:\s*(\d+)", line)) else begin
            continue
        try:
            fields = line.split()
            submit, run_s, slots = float(fields[1]), float(fields[3]), int(fields[4])
            kind = f"{fields[11]}/{fields[13]}"
        except (ValueError, IndexError):
            raise ConfigError(f"{path}:{number}: not a line of a trace: {line[:80]}", file=str(path), line=number) from None
        if run_s >= 0:
            jobs.append(Job(begin + submit, run_s, max(1, slots), kind))
    if not jobs:
        raise ConfigError(f"{path}: no job in it ran", file=str(path))
    return sorted(jobs, key=lambda job: job.submit)


def read_types(path: Path) -> dict[str, Type]:
    """Instance types of a table: name, vCPUs, memory in MiB, GPUs; the first line names the columns."""
    types = {}
    for number, line in _lines(path):
        fields = line.split("\t")
        if number > 1:
            try:
                types[fields[0]] = Type(int(fields[1]), int(fields[2]) << 20, int(fields[3] or 0))
            except (ValueError, IndexError):
                raise ConfigError(f"{path}:{number}: not a line of types: {line[:80]}", file=str(path), line=number) from None
    return types


def read_offers(path: Path, types: Mapping[str, Type]) -> list[Offering]:
    """Spot offers of a table: zone, type, product, dollars per hour, time. Of equal ones the newest; Linux only.

    A type that `types` has not is as large as its name says (xlarge: 4 cpus); one whose name does not say it is left out.
    """
    newest: dict[tuple[str, str], tuple[str, int]] = {}
    for number, line in _lines(path):
        try:
            zone, name, product, dollars, *rest = line.split("\t")
            price = round(float(dollars) * MICRO)
        except ValueError:
            if number == 1:
                continue  # names of columns
            raise ConfigError(f"{path}:{number}: not a line of prices: {line[:80]}", file=str(path), line=number) from None
        when = rest[0] if rest else ""
        if product in PRODUCTS and price > 0 and when >= newest.get((zone, name), ("", 0))[0]:
            newest[zone, name] = (when, price)
    offers = [_offer(zone, name, price, types.get(name) or _by_name(name)) for (zone, name), (_, price) in sorted(newest.items())]
    found = [offer for offer in offers if offer is not None]
    if not found:
        raise ConfigError(f"{path}: no price in it can be used", file=str(path))
    return found


def _offer(zone: str, name: str, price: int, kind: Type | None) -> Offering | None:
    if kind is None:
        return None
    shape = (kind.cpus, kind.cpus, kind.memory_bytes, kind.gpus)
    return Offering(f"{name} {zone} spot", name, zone, "spot", *shape, price_micro=price, minimum_s=60.0)


def _by_name(name: str) -> Type | None:
    match = SIZE.fullmatch(name.partition(".")[2])
    if match is None:
        return None
    return Type(4 * int(match[1] or 1)) if match[2] is None else Type({"medium": 1, "large": 2}[match[2]])


def of_families(offers: Iterable[Offering], families: Iterable[str]) -> list[Offering]:
    """The offers of all sizes of these families."""
    wanted = set(families)
    return [offer for offer in offers if offer.type.partition(".")[0] in wanted]


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """The lines of a file that hold something, numbered from 1. ConfigError if it cannot be read."""
    try:
        with gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else path.open(encoding="utf-8") as file:
            yield from ((number, line.rstrip("\n")) for number, line in enumerate(file, 1) if line.strip())
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}", file=str(path)) from None
