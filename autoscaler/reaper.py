"""Our rows against the provider's list: what is gone, whose it is, what is nobody's. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Protocol

from coalition import ledger
from coalition.states import InstanceState
from providers.base import Instance, Life


class Row(Protocol):
    """What the reaper looks at of an instance's record."""

    @property
    def id(self) -> int: ...
    @property
    def intent_id(self) -> int: ...
    @property
    def token(self) -> str: ...
    @property
    def k(self) -> int: ...
    @property
    def provider(self) -> str: ...
    @property
    def provider_id(self) -> str: ...
    @property
    def state(self) -> str: ...
    @property
    def committed_until(self) -> float: ...
    @property
    def launched_at(self) -> float | None: ...
    @property
    def launch_by(self) -> float: ...
    @property
    def minimum_s(self) -> float: ...
    @property
    def granularity_s(self) -> float: ...


@dataclass(frozen=True)
class Gone:
    id: int
    ended_at: float
    reason: str


@dataclass
class Findings:
    """`sightings` goes into the next look: when each stray was seen first; so does `alive`: when rows were seen to run."""

    gone: list[Gone] = field(default_factory=list)
    adopted: dict[int, list[Instance]] = field(default_factory=dict)  # by intent
    strays: dict[str, list[Instance]] = field(default_factory=dict)  # by provider: to be ended
    lingering: dict[str, list[str]] = field(default_factory=dict)  # by provider: to be terminated once more
    sightings: dict[tuple[str, str], float] = field(default_factory=dict)
    alive: dict[int, float] = field(default_factory=dict)


def reap(
    rows: Sequence[Row],
    lists: Mapping[str, Sequence[Instance]],
    sightings: Mapping[tuple[str, str], float],
    farm: str,
    now: float,
    *,
    slack_s: float,
    stray_age_s: float,
    alive: Mapping[int, float] = MappingProxyType({}),
) -> Findings:
    """What the lists of providers (those that could be had) say about our rows.

    An instance without a row is ended at its second sighting past `stray_age_s`, and only if it carries this farm's tag.
    One that is not listed is gone past `stray_age_s`, whatever its state: lists lag, and money is freed by evidence only.
    """
    findings = Findings()
    by_id = {(provider, one.id): one for provider, listed in lists.items() for one in listed}
    by_token: dict[tuple[str, str], list[Instance]] = {}
    for (provider, _), one in by_id.items():
        by_token.setdefault((provider, one.token), []).append(one)
    for row in rows:
        if row.provider in lists and row.provider_id:
            if row.id in alive:
                findings.alive[row.id] = alive[row.id]
            latest = latest_end(row, now, slack_s, alive.get(row.id, 0.0))
            _look(row, by_id.get((row.provider, row.provider_id)), findings, now, latest, stray_age_s)
        elif not row.provider_id:
            _search(row, by_token.get((row.provider, row.token), ()), findings, now, slack_s)
    known = {(row.provider, row.provider_id) for row in rows if row.provider_id}
    known |= {(row.provider, found.id) for row in rows for found in findings.adopted.get(row.intent_id, ())}
    for provider, listed in lists.items():
        for one in listed:
            if one.life is not Life.GONE and one.farm == farm and (provider, one.id) not in known:
                first = sightings.get((provider, one.id))
                findings.sightings[provider, one.id] = now if first is None else first
                age = now - (one.launched_at if one.launched_at is not None else findings.sightings[provider, one.id])
                if first is not None and age >= stray_age_s:
                    findings.strays.setdefault(provider, []).append(one)
    for key, first in sightings.items():  # a list that failed says nothing
        if key[0] not in lists:
            findings.sightings[key] = first
    return findings


def latest_end(row: Row, now: float, slack_s: float, alive_at: float) -> float:
    """The latest time at which one that is gone may have ended, where nobody says when.

    Not now, if nobody looked for long: its deadline ended it, unless it was seen to run after that.
    """
    return min(now, max(row.committed_until + slack_s, alive_at))


def _look(row: Row, seen: Instance | None, findings: Findings, now: float, latest: float, stray_age_s: float) -> None:
    if seen is None:
        if now - (row.launched_at or 0.0) >= stray_age_s:  # TERMINATING too: that it was asked to end is no evidence
            findings.gone.append(Gone(row.id, latest, "the provider no longer lists it"))
    elif seen.life is Life.GONE:
        findings.gone.append(_gone(row, seen, latest))
    else:
        findings.alive[row.id] = now
        if row.state == InstanceState.TERMINATING:
            findings.lingering.setdefault(row.provider, []).append(row.provider_id)


def _gone(row: Row, seen: Instance, latest: float) -> Gone:
    return Gone(row.id, latest if seen.ended_at is None else seen.ended_at, seen.reason or "it ended")


def _search(row: Row, listed: Sequence[Instance], findings: Findings, now: float, slack_s: float) -> None:
    """A row whose launch's outcome is not known: found by its token, or spent when its money's time is over."""
    taken = {one.id for one in findings.adopted.get(row.intent_id, ())}
    fits = [one for one in listed if one.k in (None, row.k) and one.id not in taken]
    end = ledger.committed_end(row.committed_until, row.launch_by, slack_s, row.minimum_s, row.granularity_s)
    if fits:
        findings.adopted.setdefault(row.intent_id, []).append(fits[0])
        if fits[0].life is Life.GONE:
            findings.gone.append(_gone(row, fits[0], latest_end(row, now, slack_s, 0.0)))
    elif now >= end:
        words = "whether it was ever started is not known, and its paid time is over: all of it counts as spent"
        findings.gone.append(Gone(row.id, end, words))
