"""A farm whose autoscaler can be stopped at any moment and started again, with a cloud that bills: what no moment may break.

A moment is a statement (before it), a commit (before and after it) or a call to the provider (before it, and when it has had its
effect). Whoever watches the moments may raise Stop: the process dies there, and what it has not committed is undone.
"""

from __future__ import annotations

import json
import random
import re
import shutil
import sqlite3
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

from sqlalchemy import Engine, event

from autoscaler.loop import Autoscaler
from coalition import ledger
from coalition.config import BudgetSettings, PoolSettings, Settings
from coalition.errors import Fenced, NotAuthenticated
from coalition.schema import metadata
from coalition.store import Store
from coalition.store.cloud import ROLE
from providers.base import Notice, Offering, Reason, Rejected, Scope, Unknown
from tests.cloud_world import DOLLAR, LINUX, START, World, budget, pool, settings

DEAD_S = (11.0, 11.0, 11.0, 11.0, 11.0, 100.0, 100.0, 700.0, 86_400.0)  # for how long a server that stopped may be away
SPOT = replace(
    LINUX, name="m/a/spot", type="m", market="spot", price_micro=DOLLAR, bid_micro=DOLLAR, rate_micro=400_000, minimum_s=60.0
)
HOURLY = replace(LINUX, name="h", type="h", price_micro=1_100_000, minimum_s=3_600.0, granularity_s=3_600.0)
ENDED = {"GONE", "FAILED"}
LISTS = re.compile(r"\?(, \?)+")  # as many as there happened to be


class Stop(BaseException):
    """The process dies here."""


class Moments:
    """Hands each moment to `watch`, while something is awake to be watched."""

    def __init__(self) -> None:
        self.watch: Callable[[str], None] = lambda kind: None
        self.awake = False
        self.seen = 0

    def __call__(self, kind: str) -> None:
        if self.awake:
            self.seen += 1
            self.watch(kind)


moments = Moments()  # of the one farm that lives


class Cursor(sqlite3.Cursor):
    def execute(self, sql: str, *values: Any) -> Any:
        moments(LISTS.sub("?", sql))
        return super().execute(sql, *values)


class Watched(sqlite3.Connection):
    """Every statement is a moment, whichever way it reaches the database."""

    def cursor(self, factory: Any = None) -> Any:
        return super().cursor(factory or Cursor)

    def commit(self) -> None:
        moments("commit")
        super().commit()


class MortalStore(Store):
    """On SQLite. All stores of one file have one engine, which knows their statements already."""

    engines: ClassVar[dict[str, Engine]] = {}

    def __init__(self, wanted: Settings, clock: Callable[[], float]) -> None:
        super().__init__(wanted, clock)
        self.committed = lambda method: moments(f"after {method}")
        known = self.engines.setdefault(str(self.url), self.engine)
        if known is self.engine:
            event.listen(known, "do_connect", lambda _dialect, _record, _args, options: options.update(factory=Watched))
        self.engine = self._reader = known


def empty_database(path: Path) -> Path:
    """A database with all tables and nothing in them, to be copied."""
    store = Store(settings(path.parent, database=f"sqlite:///{path}"))
    metadata.create_all(store.engine)
    store.close()
    with closing(sqlite3.connect(path)) as db:
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return path


class Mortal(World):
    """One farm. `dice` decide what its life is like; `check` is what must hold at every moment."""

    def __init__(self, folder: Path, empty: Path, wanted: Settings, offers: Sequence[Offering], seed: int = 0) -> None:
        for old in folder.glob("coalition.db*"):
            old.unlink()
        folder.mkdir(exist_ok=True)
        shutil.copy(empty, folder / "coalition.db")
        self.dice = random.Random(seed)
        self.stops, self.silent = 0, False
        self.raised: dict[str, int] = {}  # budget -> its highest cap so far
        super().__init__(folder, wanted, offers, MortalStore)
        self.fake.before = lambda point: moments(f"call {point}")

    # ------------------------------------------------------------ life and death

    def tick(self, count: int = 1, seconds: float = 0.0) -> None:
        """Ticks that may be stopped; then the server is dead for a while, and another one starts, until one comes to its end."""
        for _ in range(count):
            while not self._comes_to_its_end():
                pass
            self.clock.wait(seconds)

    def _comes_to_its_end(self) -> bool:
        stops = self.stops
        for machine in self.fake.machines.values():  # a list lags by less than `stray_age`
            machine.hidden *= self.clock() - machine.started_at < 100
        try:
            moments.awake = True
            self.scaler.tick()
        except Stop:
            moments.awake = False
            self.stops += 1
            self.clock.wait(self.dice.choice(DEAD_S))
            self._expire(self.scaler)
            self.scaler = self.new_scaler()
        except Fenced:  # another led
            moments.awake = False
            self.scaler.stop()
        finally:
            moments.awake = False
        self.check()
        return self.stops == stops

    def _expire(self, scaler: Autoscaler) -> None:
        """Its lease has run out."""
        self.store.release_leader(ROLE, scaler.holder)
        self.clock.wait(0.01)

    def stall(self) -> None:
        """The leader hangs here, between two transactions, for longer than its lease: another one takes over meanwhile."""
        moments.awake = False
        self._expire(self.scaler)
        other = self.new_scaler()
        for _ in range(2):
            other.tick()
            self.clock.wait(5.0)
        self._expire(other)
        moments.awake = True

    # ------------------------------------------------------------ what must hold

    def rows(self, sql: str, *values: Any) -> list[Any]:
        """What the database has, read by somebody else."""
        with closing(sqlite3.connect(self.settings.data_dir / "coalition.db")) as db:
            db.row_factory = sqlite3.Row
            return db.execute(sql, values).fetchall()

    def close(self) -> None:
        """The next farm may have the same file."""
        self.scaler.stop()
        self.store.engine.dispose()

    def check(self) -> None:
        """In each window of each hard budget bill <= committed <= cap; no token starts more than was asked for, no pool more
        than it may have."""
        for shown in self.store.in_force().budgets:
            self.raised[shown.name] = max(shown.amount_micro, self.raised.get(shown.name, 0))
        intents = [(row["token"], set(json.loads(row["sponsors"]))) for row in self.rows("SELECT token, sponsors FROM intent")]
        for window in self.rows("SELECT * FROM budget_window"):
            name = window["budget"]
            tokens = [token for token, sponsors in intents if name in sponsors]
            billed = self.fake.bill(window["starts_at"], window["ends_at"], tokens=tokens)
            billed -= len(self.fake.machines)  # of each the last micro-unit may be in the window before
            told = (name, window["starts_at"], self.clock() - START)
            assert billed <= window["committed_micro"], told
            assert window["committed_micro"] <= self.raised.get(name, 0), told
        asked = {request.token: request.count for request in self.requests()}
        for token, ids in self.fake.orders.items():
            assert len(ids) <= asked[token], token
        most = {one.name: one.max for one in self.settings.pools}
        for name, limit in most.items():
            assert sum(one.pool == name for one in self.fake.live()) <= limit, name

    def end(self) -> None:
        """All work is done: in the end nothing runs, nothing is open, and the books know of all that was billed."""
        self.fake.faults = type(self.fake.faults)()
        self.store.drain_pools([one.name for one in self.settings.pools])
        for _ in range(40):
            for id in self.alive():
                self.finish(id)
            self.tick(seconds=1.0 if self.silent else 200.0)
            for _ in range(8 if self.silent else 0):  # they are given up, by those who sweep often
                self.clock.wait(25.0)
                self.store.sweep()
            if not self.fake.live() and set(self.states()) <= ENDED:
                break
        assert not self.fake.live(), self.states()
        assert set(self.states()) <= ENDED
        (booked,) = self.rows("SELECT coalesce(sum(amount_micro), 0) AS sum FROM ledger")
        spent = sum(row["spent_micro"] for row in self.store.instances(ended=True))
        assert self.fake.bill() <= booked["sum"] == spent == self.committed("all")

    # ------------------------------------------------------------ what happens

    def alive(self) -> list[str]:
        """Workers whose machines run and who may still talk."""
        live = {one.id for one in self.fake.live()}
        return [id for id, worker in self.workers.items() if id in live and self.store.worker_row(worker) is not None]

    def boot(self) -> None:
        """Every machine that the records still expect enrols its worker."""
        tokens = {request.token: request for request in self.requests()}
        expected = {row["token"] for row in self.rows("SELECT token FROM intent JOIN instance ON intent.id = intent_id"
                                                      " WHERE instance.state IN ('INTENDED', 'STARTING')")}  # fmt: skip
        for one in self.fake.live():
            if one.id not in self.workers and one.token in expected:
                with suppress(NotAuthenticated):  # too late: it is let in no more
                    self.enrol(one.id, tokens[one.token])

    def happen(self) -> None:
        """One thing that may happen to a farm."""
        self.dice.choice(HAPPENINGS)(self)

    def come(self) -> None:
        self.submit(self.dice.randint(1, 6), user=self.dice.choice(["ann", "bob"]), retries=50)

    def run(self) -> None:
        self.boot()
        for id in self.alive():
            self.work(id, 2)

    def done(self) -> None:
        for id in self.alive():
            if self.dice.random() < 0.7:
                self.finish(id, self.dice.uniform(1, 900))

    def wait(self) -> None:
        self.clock.wait(self.dice.choice([2.0, 70.0, 320.0, 320.0, 1_000.0, 3_600.0]))

    def interrupt(self) -> None:
        if live := list(self.fake.live()):
            self.fake.lose(self.dice.choice(live).id)

    def announce(self) -> None:
        if live := list(self.fake.live()):
            self.fake.pending_notices.append(Notice(self.dice.choice(live).id, self.clock() + 120, "it is wanted back"))

    def reprice(self) -> None:
        """Twice, so that nobody sees the first; above what is bid the machines go."""
        for offer in self.fake.offers:
            if offer.market == "spot":
                self.fake.reprice(offer.name, self.dice.randint(200_000, 1_200_000))
                self.clock.wait(self.dice.choice([1.0, 400.0]))
                self.fake.reprice(offer.name, self.dice.randint(200_000, 950_000))
                self.clock.wait(1.0)

    def break_something(self) -> None:
        faults, dice = self.fake.faults, self.dice
        verb = dice.choice(["launch", "launch", "list", "terminate", "renew", "offerings", "notices"])
        kind = dice.randrange(6)
        if kind == 0 and verb in ("launch", "list", "terminate", "renew"):
            faults.lost_answers[verb] += 1
        elif kind == 1:
            faults.errors[verb].append(Unknown("500"))
        elif kind == 2 and verb == "launch":
            reason, scope = dice.choice([(Reason.CAPACITY, Scope.OFFERING), (Reason.THROTTLE, Scope.PROVIDER)])
            faults.errors["launch"].append(Rejected(reason, "not now", scope))
        elif kind == 3:
            faults.partial.append(1)
        elif kind == 4:
            faults.hidden_lists = dice.randint(0, 3)
        else:
            faults.stubborn += 1

    def wish(self) -> None:
        """Somebody asks for an end by hand, or for a machine."""
        if self.dice.random() < 0.3:
            self.store.ask_launch(self.settings.pools[0].name, 1, "", "cid")
        elif rows := self.store.instances():
            self.store.mark_instances([self.dice.choice(rows)["id"]], self.dice.choice(["drain", "terminate"]), "ann")

    def change_cap(self) -> None:
        budgets = [one for one in self.store.in_force().budgets if one.name != "all"]
        if budgets:
            one = self.dice.choice(budgets)
            self.store.edit_budget(one.name, {"amount_micro": round(one.amount_micro * self.dice.uniform(0.3, 2.0))}, "ann")

    def fall_silent(self) -> None:
        """A guest hangs: nobody hears of it again, and only its deadline ends it."""
        if alive := self.alive():
            del self.workers[self.dice.choice(alive)]
            self.silent = True


HAPPENINGS: tuple[Callable[[Mortal], None], ...] = (
    *(Mortal.come, Mortal.run, Mortal.done, Mortal.wait, Mortal.wait),
    *(Mortal.interrupt, Mortal.announce, Mortal.reprice, Mortal.break_something, Mortal.break_something),
    *(Mortal.wish, Mortal.change_cap, Mortal.fall_silent),
)


def a_farm(folder: Path, empty: Path, seed: int) -> Mortal:
    """A farm made by dice: what it may buy, how that is billed, who pays and for how long, and when the clock starts."""
    dice = random.Random(seed)
    offers = dice.choice([(LINUX,), (SPOT,), (SPOT, HOURLY), (SPOT, LINUX)])
    some = [_a_pool(dice, f"p{number}") for number in range(dice.choice([1, 1, 2]))]
    counts = budget("bobs", 50.0, window="total", applies_to="user:bob", hard=False)
    budgets = [budget("all", 50.0, window="total"), counts, *(_a_budget(dice, number) for number in range(dice.randint(1, 3)))]
    world = Mortal(folder, empty, settings(folder, some, budgets), offers, seed)
    world.fake.concurrent = dice.random() < 0.2
    world.fake.renewable = dice.random() < 0.8
    if dice.random() < 0.5:  # shortly before midnight, where it is a day's end for somebody
        _, midnight = ledger.window_at("day", dice.choice(ZONES), START)
        world.clock.now = midnight - dice.uniform(1, 700)
    return world


ZONES = ("UTC", "Europe/Berlin", "Pacific/Auckland")


def _a_pool(dice: random.Random, name: str) -> PoolSettings:
    values: dict[str, Any] = {"max": dice.randint(1, 3), "purchase": ("spot", "on-demand"), "min": dice.choice([0, 0, 1])}
    return pool(name=name, **values)


def _a_budget(dice: random.Random, number: int) -> BudgetSettings:
    applies_to = dice.choice(["farm", "farm", "pool:p0", "user:ann", "offering:m"])
    window = dice.choice(["hour", "day", "day", "week", "month", "total"])
    return budget(f"b{number}", dice.uniform(0.2, 3.0), window=window, timezone=dice.choice(ZONES), applies_to=applies_to)
