"""Threads beside the requests that tell people: one for mail, one for webhooks, so that neither waits for the other.

News become notices in the database (coalition/store/notices.py), whichever server finds them first; from there they are sent, by
one server at a time. What cannot be sent waits, ever longer, and what is not known to have arrived is sent again under the same
id.
"""

from __future__ import annotations

import hashlib
import logging
import secrets
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import groupby
from typing import Any, ClassVar

from coalition import hooks, metrics
from coalition.config import Settings, WebhookSettings
from coalition.errors import CoalitionError
from coalition.hooks import Failed
from coalition.mail import Busy, Item, Later, Post, Refused, message, password
from coalition.server.rounds import Rounds
from coalition.store import Store
from coalition.store.notices import Notice

log = logging.getLogger("coalition.notify")

HOLD_S = 900.0  # longer than a round's sending may take, which ends after LONGEST_S
LONGEST_S = 300.0
FIRST_WAIT_S, LONGEST_WAIT_S = 15.0, 900.0
TURN_S = 20.0  # of a round for one webhook's calls
HOOKS_GIVE_UP_S = 3 * 86_400.0


def check(settings: Settings) -> None:
    """ConfigError when a secret cannot be read; else it would be known with the first mail."""
    if settings.mail.host:
        password(settings.mail)
    for hook in settings.webhooks:
        hooks.key_of(hook)


def notifiers(settings: Settings, store: Store) -> list[Notifier]:
    """The threads that this configuration needs."""
    mail: list[Notifier] = [Mailer(settings, store)] if settings.mail.host else []
    return [*mail, *([Hooks(settings, store)] if settings.webhooks else [])]


class Notifier(Rounds):
    """Finds news, and sends the notices of one channel."""

    channel: ClassVar[str]
    interval_s, log = 5.0, log
    every_s = 0.0  # between two messages to one target

    def __init__(self, settings: Settings, store: Store) -> None:
        super().__init__(store)
        self.settings = settings
        self.holder = secrets.token_hex(8)

    def tidy(self) -> int:
        """One round, if this process leads; how many notices were sent."""
        if not self.leads():
            return 0
        if self.store.has_news():
            self.store.collect()
        if not self.store.has_due(self.channel, self.every_s):
            return 0
        claimed = self.store.claim(self.channel, self.every_s, self.holder, HOLD_S)
        return self.send(claimed, self.store.clock() + LONGEST_S)

    def send(self, claimed: Sequence[Notice], until: float) -> int:
        """Sends them, and stores what became of each; those for which no time is left are due again at once."""
        raise NotImplementedError

    def _arrived(self, notices: Sequence[Notice]) -> int:
        metrics.add(metrics.NOTICES, self.channel, "sent")
        return self.store.sent([one.id for one in notices], self.holder)

    def _later(self, notices: Iterable[Notice], why: str) -> None:
        """Each waits by how often it was tried."""
        for tries, some in groupby(sorted(notices, key=lambda one: one.tries), key=lambda one: one.tries):
            self.store.put_off([one.id for one in some], self.holder, why, self.store.clock() + _wait_s(tries))

    def _failed(self, target: str, why: str) -> None:
        metrics.add(metrics.NOTICES, self.channel, "failed")
        log.warning("%s to %s waits: %s", self.channel, target, why)

    def _lost(self, notices: Sequence[Notice], why: str) -> None:
        metrics.add(metrics.NOTICES, self.channel, "refused")
        log.error("%s to %s is given up: %s", self.channel, notices[0].target, why)
        self.store.give_up([one.id for one in notices], self.holder, why)


class Mailer(Notifier):
    """Mail: all that is due for an address goes into one."""

    role, channel = "mailer", "mail"

    def __init__(self, settings: Settings, store: Store) -> None:
        super().__init__(settings, store)
        self.every_s = settings.mail.interval_s

    def send(self, claimed: Sequence[Notice], until: float) -> int:
        left = dict(_by_target(claimed))
        sent = 0
        try:
            with Post(self.settings.mail) as post:
                while left and self.store.clock() < until and not self.stopping.is_set():
                    target = next(iter(left))
                    sent += self._send_one(post, target, left[target])
                    del left[target]
        except (Later, CoalitionError) as error:  # the SMTP server, or a password that cannot be read
            self._failed(self.settings.mail.host, str(error))
            self._later((one for some in left.values() for one in some), str(error))
            return sent
        for some in left.values():
            self.store.put_off([one.id for one in some], self.holder, "", self.store.clock())
        return sent

    def _send_one(self, post: Post, target: str, notices: Sequence[Notice]) -> int:
        newest = {(one.job_id, one.kind) if one.job_id else (one.id, one.kind): one for one in notices}
        items = [Item(one.title, one.text, self.settings.url + one.path) for one in newest.values()]
        try:
            mail = message(self.settings.mail, self.settings.server.farm, target, items, _id_of(notices), self.store.clock())
            post.send(mail, target)
        except (Refused, ValueError) as error:  # ValueError: an address that none can be
            self._lost(notices, str(error))
            return 0
        except Busy as error:
            self._failed(target, str(error))
            self._later(notices, str(error))
            return 0
        return self._arrived(notices)


class Hooks(Notifier):
    """Webhooks: one call for each notice, in their order."""

    role, channel = "webhooks", "webhook"

    def send(self, claimed: Sequence[Notice], until: float) -> int:
        """To all of them at the same time, none of which takes long: who answers late, or never, holds up no other."""
        hooks_by_name = {hook.name: hook for hook in self.settings.webhooks}
        targets = list(_by_target(claimed))
        until = min(until, self.store.clock() + TURN_S)
        with ThreadPoolExecutor(max(1, len(targets)), "coalition-webhook") as threads:
            return sum(threads.map(lambda one: self._send_to(hooks_by_name.get(one[0]), one[1], until), targets))

    def _send_to(self, hook: WebhookSettings | None, notices: Sequence[Notice], until: float) -> int:
        """To one address: after the first that fails the others wait with it."""
        if hook is None:
            self._lost(notices, "the webhook is no longer in cloud.ini")
            return 0
        for done, one in enumerate(notices):
            if self.store.clock() >= until or self.stopping.is_set():
                self.store.put_off([other.id for other in notices[done:]], self.holder, "", self.store.clock())
                return done
            try:
                hooks.call(hook, self._told(one), f"notice-{one.id}", self.store.clock())
            except (Failed, CoalitionError) as error:
                self._failed(hook.name, str(error))
                self._wait_or_give_up(notices[done:], str(error))
                return done
            self._arrived([one])
        return len(notices)

    def _wait_or_give_up(self, notices: Sequence[Notice], why: str) -> None:
        """Too old ones are given up; the others, also those that were not claimed, wait as long as the first of them."""
        now = self.store.clock()
        old = [one for one in notices if one.at < now - HOOKS_GIVE_UP_S]
        if old:
            self._lost(old, why)
        if left := notices[len(old) :]:
            due_at = now + _wait_s(left[0].tries)
            self.store.put_off([one.id for one in left], self.holder, why, due_at)
            self.store.put_off_behind(self.channel, left[0].target, due_at)

    def _told(self, one: Notice) -> dict[str, Any]:
        link = self.settings.url + one.path
        facts = {"id": one.id, "farm": self.settings.server.farm, "at": one.at, "kind": one.kind, "job": one.job_id}
        return {**facts, "title": one.title, "text": one.text, "link": link}


def _wait_s(tries: int) -> float:
    return min(LONGEST_WAIT_S, FIRST_WAIT_S * 2.0 ** min(tries - 1, 10))


def _by_target(notices: Sequence[Notice]) -> Iterator[tuple[str, list[Notice]]]:
    found: dict[str, list[Notice]] = {}
    for one in notices:
        found.setdefault(one.target, []).append(one)
    yield from found.items()


def _id_of(notices: Sequence[Notice]) -> str:
    """The same for the same notices."""
    return "coalition." + hashlib.sha256(" ".join(str(one.id) for one in notices).encode()).hexdigest()[:32]
