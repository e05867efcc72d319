"""The worker protocol over a running dispatcher: its writer, watcher, flusher and sweeper are the real threads."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy import event, insert, select, update

from coalition import schema
from coalition.errors import NotAuthenticated, StaleCall, Unavailable
from coalition.model import Lease, Result, Running, Sync, SyncReply, WorkerChanges
from coalition.server.dispatcher import Dispatcher
from coalition.store import Store
from tests.builders import Clock, WatchedStore, a_group, a_job, a_result, an_enrol
from tests.polling import poll_until

SOON_S = 2.0


class Bench:
    """A dispatcher and workers that call it."""

    def __init__(self, store: Store, **server: Any) -> None:
        rules = replace(store.settings, server=replace(store.settings.server, **server))
        self.store = store
        self.dispatcher = Dispatcher(rules, store, store.clock)
        self.dispatcher.start()
        self.threads = ThreadPoolExecutor(32)

    def close(self) -> None:
        self.dispatcher.stop()
        self.threads.shutdown()

    def worker(self, name: str = "w1", **fields: Any) -> Agent:
        return Agent(self, name, **{"slots": 1, **fields})

    def submit(self, *specs: Any, count: int = 1) -> tuple[int, ...]:
        ids = self.store.submit(specs or [a_job(str(number)) for number in range(count)]).ids
        self.dispatcher.kick()
        return ids

    def told(self, change: Callable[[], object]) -> None:
        """Does it, and waits until this process has seen that workers changed."""
        change()
        self.dispatcher.kick()
        now = self.store.counters()["fleet"]
        poll_until(lambda: self.dispatcher._versions.get("fleet") == now)

    def parked(self) -> int:
        return sum(session.parked is not None for session in self.dispatcher.sessions.values())

    def states(self, *ids: int) -> list[str]:
        return [str(self.store.job(job_id).state) for job_id in ids]


class Agent:
    def __init__(self, bench: Bench, name: str, **fields: Any) -> None:
        self.bench, self.slots, self.seq = bench, fields["slots"], 0
        self.enrolment = an_enrol(name, **fields)
        self.enrol()
        self.held: dict[int, Lease] = {}

    def enrol(self) -> None:
        self.admission = self.bench.store.enrol(self.enrolment, open_door=True)

    def sync(self, *finished: Result, **fields: Any) -> SyncReply:
        """One call; the worker believes the reply."""
        reply = self.lost_sync(*finished, **fields)
        self.held.update((lease.attempt, lease) for lease in reply.leases)
        for attempt in reply.stop:
            self.held.pop(attempt, None)
        return reply

    def lost_sync(self, *finished: Result, **fields: Any) -> SyncReply:
        """One call whose reply does not reach the worker."""
        for result in finished:
            self.held.pop(result.attempt, None)
        self.seq += 1
        running = tuple(Running(attempt, True) for attempt in self.held)
        given = {"epoch": self.admission.epoch, "seq": self.seq, "free": self.slots - len(running), "running": running}
        session = self.bench.dispatcher.session(self.admission.worker_id, self.admission.credential)
        return self.bench.dispatcher.sync(session, Sync(**{**given, "finished": finished, **fields}))

    def wait(self, wait_s: float = 10.0) -> Future[SyncReply]:
        """A call that waits in the server; returns when it is parked."""
        before = self.bench.parked()
        answer = self.bench.threads.submit(self.sync, wait_s=wait_s)
        poll_until(lambda: self.bench.parked() > before or answer.done())
        return answer


@pytest.fixture
def bench(store: WatchedStore) -> Iterator[Bench]:
    made = Bench(store)
    yield made
    made.close()


@contextmanager
def transactions(store: Store) -> Iterator[list[str]]:
    """The threads that reach for the database meanwhile, but for the watcher and the flusher."""
    seen: list[str] = []

    def note(*_: object) -> None:
        name = threading.current_thread().name
        if name not in ("coalition-watch", "coalition-flush_often", "coalition-sweep_often"):
            seen.append(name)

    event.listen(store.engine, "checkout", note)
    try:
        yield seen
    finally:
        event.remove(store.engine, "checkout", note)


# ---------------------------------------------------------------- calls and their order


def test_a_job_goes_out_runs_and_is_finished(bench: Bench) -> None:
    (job_id,) = bench.submit()
    agent = bench.worker()
    (lease,) = agent.sync().leases
    assert agent.sync() == SyncReply([], [], [], "run", None, bench.store.settings.worker.sync_s)
    assert bench.store.attempt(lease.attempt).state == "RUNNING"
    assert agent.sync(a_result(lease)).refused == []
    assert bench.states(job_id) == ["FINISHED"]


def test_a_call_that_was_seen_is_stale(bench: Bench) -> None:
    agent = bench.worker()
    agent.sync(seq=5)
    for seq in (5, 4, 0):
        with pytest.raises(StaleCall, match="call 5 of this worker was seen"):
            agent.sync(seq=seq)
    agent.sync(seq=6)


def test_a_call_of_an_earlier_start_is_stale(bench: Bench) -> None:
    agent = bench.worker()
    agent.sync()
    agent.enrolment = replace(agent.enrolment, session="s" * 32, credential=agent.admission.credential)
    agent.enrol()
    with pytest.raises(StaleCall, match="epoch 1 is over; this worker is in epoch 2"):
        agent.sync(epoch=1)


def test_the_agent_of_before_gets_nothing_once_a_new_one_has_enrolled(bench: Bench) -> None:
    old = bench.worker()
    old.sync()
    credential = old.admission.credential
    bench.told(lambda: bench.store.enrol(an_enrol("w1", credential=credential)))
    bench.submit()
    with pytest.raises(NotAuthenticated):
        old.sync()


@pytest.mark.parametrize("credential", ["", "w1", "w1.", "w1.wrong", "w2.x", "w99.x"])
def test_a_wrong_credential_is_refused_also_after_a_good_one(bench: Bench, credential: str) -> None:
    agent = bench.worker()
    agent.sync()
    with pytest.raises(NotAuthenticated):
        bench.dispatcher.session(agent.admission.worker_id, credential)


def test_leases_of_a_lost_reply_are_given_again_and_no_more(bench: Bench) -> None:
    bench.submit(count=9)
    agent = bench.worker(slots=2)
    lost = [agent.lost_sync().leases for _ in range(3)]
    assert lost[0] == lost[1] == lost[2]
    assert len(lost[0]) == 2
    assert [lease.title for lease in agent.sync().leases] == ["0", "1"]


def test_a_repeated_report_is_answered_as_before(bench: Bench) -> None:
    bench.submit(count=2)
    agent = bench.worker()
    (lease,) = agent.sync().leases
    agent.lost_sync(a_result(lease))
    reply = agent.sync(a_result(lease))
    assert (reply.refused, [lease.title for lease in reply.leases]) == ([], ["1"])


def test_the_result_of_a_job_that_was_leased_again_is_refused(bench: Bench) -> None:
    (job_id,) = bench.submit()
    agent = bench.worker()
    (lease,) = agent.sync().leases
    bench.store.reset([job_id])
    bench.worker("w2").sync()
    assert [refusal.attempt for refusal in agent.sync(a_result(lease)).refused] == [lease.attempt]


def test_a_paused_jobs_attempt_is_stopped_at_the_next_call(bench: Bench) -> None:
    (job_id,) = bench.submit()
    agent = bench.worker()
    (lease,) = agent.sync().leases
    bench.told(lambda: bench.store.pause([job_id]))
    assert agent.sync().stop == [lease.attempt]
    assert agent.held == {}


def test_a_new_server_goes_on_where_the_old_one_was(bench: Bench) -> None:
    first, _ = bench.submit(count=2)
    agent = bench.worker()
    (lease,) = agent.sync().leases
    again = Bench(bench.store)
    agent.bench = again
    reply = agent.sync()
    assert (reply.leases, reply.stop) == ([], [])
    assert [lease.title for lease in agent.sync(a_result(lease)).leases] == ["1"]
    assert bench.states(first) == ["FINISHED"]
    again.close()


# ---------------------------------------------------------------- how much


def test_no_more_leases_than_free_slots_while_run_times_are_unknown_or_long(bench: Bench) -> None:
    bench.submit(count=20)
    agent = bench.worker(slots=3)
    first = agent.sync().leases
    assert len(first) == 3
    assert len(agent.sync(*(a_result(lease, run_s=30) for lease in first)).leases) == 3


def test_short_jobs_are_leased_ahead_by_up_to_a_second_of_work(bench: Bench) -> None:
    bench.submit(count=50)
    agent = bench.worker()
    (first,) = agent.sync().leases
    (second,) = agent.sync(a_result(first, run_s=0.1)).leases
    assert len(agent.sync(a_result(second, run_s=0.1)).leases) == 1 + 10


def test_what_is_queued_counts_against_what_is_leased_ahead(bench: Bench) -> None:
    bench.submit(count=50)
    agent = bench.worker()
    for _ in range(3):
        agent.sync(*(a_result(attempt, run_s=0.1) for attempt in agent.held))
    queued = tuple(Running(attempt, started=False) for attempt in agent.held)
    assert len(queued) == 11
    assert not agent.sync(free=1, running=queued).leases


def test_what_a_worker_gives_back_unstarted_goes_to_another_and_not_ahead_to_the_same(bench: Bench) -> None:
    bench.submit(count=13)
    agent, other = bench.worker(), bench.worker("w2", slots=10)
    for _ in range(3):
        agent.sync(*(a_result(attempt, run_s=0.1) for attempt in agent.held))
    longer, *queued = agent.held
    assert len(queued) == 10
    assert not agent.sync(*(a_result(attempt, "STOPPED", run_s=0) for attempt in queued)).leases
    assert not agent.sync().leases
    assert len(other.sync().leases) == 10
    bench.submit(count=5)
    assert len(agent.sync(a_result(longer, run_s=30)).leases) == 1


def test_nothing_is_leased_ahead_to_a_worker_that_takes_no_more(bench: Bench) -> None:
    bench.submit(count=50)
    agent = bench.worker()
    (first,) = agent.sync().leases
    assert not agent.sync(a_result(first, run_s=0.1), free=0, takes=False).leases
    assert agent.sync(free=0).leases


def test_a_worker_that_drains_or_is_off_or_has_no_slot_gets_nothing(bench: Bench) -> None:
    bench.submit()
    agent = bench.worker()
    assert not agent.sync(free=0).leases
    ids = [agent.admission.worker_id]
    bench.told(lambda: bench.store.drain_workers(ids))
    assert [(list(reply.leases), reply.desired) for reply in (agent.sync(), agent.sync())] == [([], "drain")] * 2
    bench.told(lambda: bench.store.resume_workers(ids))
    bench.told(lambda: bench.store.edit_workers(ids, WorkerChanges(active=False)))
    assert [(list(reply.leases), reply.desired) for reply in (agent.sync(), agent.sync())] == [([], "drain")] * 2
    bench.told(lambda: bench.store.edit_workers(ids, WorkerChanges(active=True)))
    assert len(agent.sync().leases) == 1


def test_new_tag_lines_count_from_the_next_call(bench: Bench) -> None:
    bench.submit(a_job(affinity=("gpu",)))
    agent = bench.worker()
    assert agent.sync().leases == []
    bench.told(lambda: bench.store.edit_workers([agent.admission.worker_id], WorkerChanges(affinity=(("gpu",),))))
    assert len(agent.sync().leases) == 1


# ---------------------------------------------------------------- idle and waiting


def test_an_idle_call_runs_no_sql(bench: Bench) -> None:
    bench.submit()
    idle, busy = bench.worker("idle", slots=2), bench.worker("busy")
    busy.sync()
    busy.sync()
    idle.sync()
    with transactions(bench.store) as seen:
        for _ in range(20):
            idle.sync()
            busy.sync()
    assert seen == []


def test_a_waiting_call_wakes_when_a_job_is_submitted(bench: Bench) -> None:
    agent = bench.worker()
    answer = agent.wait()
    bench.submit()
    assert [lease.title for lease in answer.result(SOON_S).leases] == ["0"]


def test_a_waiting_call_wakes_when_another_process_submits(bench: Bench) -> None:
    answer = bench.worker().wait()
    bench.store.submit([a_job("from elsewhere")])
    assert [lease.title for lease in answer.result(SOON_S).leases] == ["from elsewhere"]


def test_a_waiting_call_wakes_when_a_dependency_is_finished(bench: Bench) -> None:
    bench.submit(a_group("g", a_job("first"), ref="g"), a_job("second", depends_on=("g",)))
    agent, waiter = bench.worker("w1"), bench.worker("w2")
    (lease,) = agent.sync().leases
    answer = waiter.wait()
    agent.lost_sync(a_result(lease), free=0)
    assert [lease.title for lease in answer.result(SOON_S).leases] == ["second"]


def test_a_job_that_came_just_before_the_wait_is_not_missed(bench: Bench) -> None:
    agents = [bench.worker(f"w{number}") for number in range(8)]
    answers = [bench.threads.submit(agent.sync, wait_s=10) for agent in agents]
    bench.submit(count=8)
    assert sorted(answer.result(SOON_S).leases[0].title for answer in answers) == [str(number) for number in range(8)]


def test_no_more_workers_wake_than_there_are_jobs(bench: Bench) -> None:
    waiting = [bench.worker(f"w{number}").wait() for number in range(6)]
    with transactions(bench.store) as seen:
        bench.store.submit([a_job("a"), a_job("b")])
        poll_until(lambda: sum(answer.done() for answer in waiting) == 2)
    assert seen.count("coalition-write") <= 2 * 2  # each transaction is checked by one read
    assert bench.parked() == 4


def test_a_worker_with_many_slots_and_one_free_does_not_keep_others_asleep(bench: Bench) -> None:
    bench.submit(count=7)
    big = bench.worker("big", slots=8)
    assert len(big.sync().leases) == 7
    answers = [big.wait(), *(bench.worker(f"w{number}").wait() for number in range(3))]
    bench.submit(count=4)
    assert [len(answer.result(SOON_S).leases) for answer in answers] == [1, 1, 1, 1]


def test_workers_that_do_not_match_sleep_on(bench: Bench) -> None:
    cpu, gpu = bench.worker("cpu").wait(), bench.worker("gpu", affinity=(("gpu",),)).wait()
    bench.submit(a_job("frame", affinity=("gpu",)))
    assert [lease.title for lease in gpu.result(SOON_S).leases] == ["frame"]
    assert not cpu.done()


def test_a_newer_call_ends_the_older_one_that_waits(bench: Bench) -> None:
    agent = bench.worker()
    older = agent.wait()
    agent.sync()
    assert older.result(SOON_S).leases == []


def test_a_waiting_call_ends_with_nothing_at_its_time(bench: Bench) -> None:
    agent = bench.worker()
    assert agent.wait(0.2).result(SOON_S).leases == []
    assert bench.parked() == 0


def test_no_call_waits_so_long_that_its_leases_expire(store: WatchedStore) -> None:
    store.settings = replace(store.settings, worker=replace(store.settings.worker, lease_s=0.6))
    bench = Bench(store)
    assert bench.worker().wait(10).result(SOON_S).leases == []
    bench.close()


def test_at_most_half_the_threads_wait(store: WatchedStore) -> None:
    bench = Bench(store, threads=4)
    agents = [bench.worker(f"w{number}") for number in range(3)]
    waiting = [agent.wait() for agent in agents[:2]]
    assert agents[2].sync(wait_s=10).leases == []
    bench.dispatcher.stop()
    assert [answer.result(SOON_S).leases for answer in waiting] == [[], []]
    bench.threads.shutdown()


def test_a_worker_that_reports_or_is_told_to_stop_does_not_wait(bench: Bench) -> None:
    bench.submit()
    agent = bench.worker()
    (lease,) = agent.sync().leases
    assert bench.threads.submit(agent.sync, a_result(lease), wait_s=10).result(SOON_S).leases == []


def test_a_stopping_server_answers_everybody(bench: Bench) -> None:
    agent = bench.worker()
    waiting = agent.wait()
    bench.dispatcher.stop()
    assert waiting.result(SOON_S).leases == []
    with pytest.raises(Unavailable):
        bench.worker("w2").sync()


# ---------------------------------------------------------------- hours, desktops


def test_outside_its_hours_a_worker_gets_nothing_and_finishes_what_it_runs(bench: Bench, clock: Clock) -> None:
    bench.submit(count=2)
    agent = bench.worker(slots=2)
    lease = agent.sync(free=1).leases[0]
    bench.told(lambda: bench.store.edit_workers([agent.admission.worker_id], WorkerChanges(hours="mon 10:00-11:00")))
    reply = agent.sync(running=(Running(lease.attempt, True),), free=1)
    assert (list(reply.leases), list(reply.stop), reply.desired) == ([], [], "run")
    bench.told(lambda: bench.store.edit_workers([agent.admission.worker_id], WorkerChanges(hours="tue 20:00-23:00")))
    assert len(agent.sync(running=(Running(lease.attempt, True),), free=1).leases) == 1


def test_at_the_end_of_its_hours_what_runs_is_put_back_where_that_is_the_rule(bench: Bench, clock: Clock) -> None:
    (job_id,) = bench.submit()
    agent = bench.worker()
    (lease,) = agent.sync().leases
    rule = WorkerChanges(hours="tue 20:00-23:00", hours_end="requeue")
    bench.told(lambda: bench.store.edit_workers([agent.admission.worker_id], rule))
    assert agent.sync(running=(Running(lease.attempt, True),)).stop == []
    clock.advance(3_600)
    assert list(agent.sync(running=(Running(lease.attempt, True),)).stop) == [lease.attempt]
    assert (bench.states(job_id), bench.store.job(job_id).errors) == (["WAITING"], 0)
    assert bench.store.attempts(job_id)[0].reason == "the worker's hours are over"
    assert list(agent.sync(a_result(lease, "STOPPED")).leases) == []


def test_what_ended_just_before_the_hours_counts_though_the_rest_is_put_back(bench: Bench, clock: Clock) -> None:
    ids = bench.submit(count=2)
    agent = bench.worker(slots=2)
    done, runs = agent.sync().leases
    rule = WorkerChanges(hours="tue 20:00-23:00", hours_end="requeue")
    bench.told(lambda: bench.store.edit_workers([agent.admission.worker_id], rule))
    clock.advance(3_600)
    reply = agent.sync(a_result(done))
    assert (reply.refused, reply.stop) == ([], [runs.attempt])
    assert bench.states(*ids) == ["FINISHED", "WAITING"]


def test_a_desktop_that_somebody_uses_gets_nothing_until_its_user_has_gone(bench: Bench, clock: Clock) -> None:
    bench.submit()
    agent = bench.worker()
    bench.told(lambda: bench.store.edit_workers([agent.admission.worker_id], WorkerChanges(idle_user_s=600, idle_load=2)))
    assert list(agent.sync(user_idle_s=599).leases) == []
    assert list(agent.sync(user_idle_s=600, load=2.0).leases) == []
    assert len(agent.sync(user_idle_s=600, load=1.9).leases) == 1


# ---------------------------------------------------------------- heartbeats


def test_heartbeats_are_written_in_batches_and_renew_leases(bench: Bench, clock: Clock) -> None:
    bench.submit()
    agent = bench.worker()
    (lease,) = agent.sync().leases
    clock.advance(30)
    agent.sync(load=1.5, memory_free_bytes=7, running=(Running(lease.attempt, True, 0.5),))
    bench.dispatcher.flush()
    (shown,) = bench.store.workers()
    assert (shown.state, shown.seen_at, shown.load, shown.memory_free_bytes) == ("WORKING", clock(), 1.5, 7)
    assert bench.store.attempt(lease.attempt).progress == 0.5
    with transactions(bench.store) as seen:
        bench.dispatcher.flush()
    assert seen == []


def test_finished_and_failed_jobs_are_counted_by_worker(bench: Bench, clock: Clock) -> None:
    bench.submit(count=3)
    agent = bench.worker(slots=3)
    first, second, third = agent.sync().leases
    clock.advance(5)
    agent.sync(a_result(first), a_result(second), a_result(third, "ERROR"))
    bench.dispatcher.flush()
    (shown,) = bench.store.workers()
    assert (shown.finished, shown.errors, shown.idle_since) == (2, 1, clock())


# ---------------------------------------------------------------- cloud workers


def on_instance(store: Store, worker_id: int, **fields: Any) -> None:
    """Puts the worker on a cloud instance."""
    request = {
        "token": "t",
        "pool": "p",
        "request": "{}",
        "count": 1,
        "state": "DONE",
        "launch_by": 0,
        "fence": 0,
        "sponsors": "[]",
    }
    times = {"minimum_s": 0, "granularity_s": 1, "reason": "", "created_at": 0}
    machine = {"k": 0, "pool": "p", "offering": "m", "state": "RUNNING", "slots": 1, "price_micro": 7_200_000, "created_at": 0}
    with store.write() as db:
        intent_id = db.execute(insert(schema.intent).values(**request, **times)).inserted_primary_key[0]  # type: ignore[index]
        new = insert(schema.instance).values(
            **{**machine, "committed_until": 2e9, "funded_until": 2e9, **fields}, intent_id=intent_id
        )
        instance_id = db.execute(new).inserted_primary_key[0]  # type: ignore[index]
        db.execute(update(schema.worker).where(schema.worker.c.id == worker_id).values(instance_id=instance_id))
        store._bump(db, "fleet")


def test_a_cloud_worker_is_told_how_long_it_is_paid_for_and_its_jobs_cost(bench: Bench, clock: Clock) -> None:
    agent = bench.worker()
    bench.told(lambda: on_instance(bench.store, agent.admission.worker_id, funded_until=clock() + 90))
    (job_id,) = bench.submit()
    (lease,) = agent.sync().leases
    clock.advance(60)
    assert agent.sync(a_result(lease, run_s=2)).funded_for_s == 30
    assert bench.store.job(job_id).cost_micro == 4_000
    clock.advance(60)
    assert agent.sync().funded_for_s == 0


@pytest.mark.parametrize("state", ["TERMINATING", "GONE", "FAILED"])
def test_a_worker_whose_instance_ends_gets_nothing_and_exits(bench: Bench, state: str) -> None:
    agent = bench.worker()
    bench.told(lambda: on_instance(bench.store, agent.admission.worker_id, state=state))
    bench.submit()
    reply = agent.sync()
    assert (reply.desired, reply.leases) == ("exit", [])


# ---------------------------------------------------------------- several server processes


@pytest.fixture
def other(bench: Bench) -> Iterator[Bench]:
    """The dispatcher of another process on the same database."""
    made = Bench(bench.store)
    yield made
    made.close()


def test_what_one_process_leased_in_a_lost_reply_another_one_gives_again(bench: Bench, other: Bench) -> None:
    agent = bench.worker()
    for agent.bench in (bench, other, bench):
        assert agent.sync().leases == []
    (job_id,) = bench.submit()
    agent.bench = other
    other.dispatcher.kick()
    lost = agent.lost_sync().leases
    agent.bench = bench  # it has seen this worker hold nothing
    assert [lease.job for lease in lost] == [job_id]
    assert agent.sync().leases == lost


def test_what_a_call_gets_that_waited_elsewhere_is_given_again_where_the_worker_is_now(bench: Bench, other: Bench) -> None:
    agent = bench.worker()
    agent.sync()
    older = agent.wait()
    agent.held = {}
    agent.bench = other
    assert agent.sync().leases == []
    bench.store.submit([a_job("late")])
    lost = older.result(SOON_S).leases
    agent.held = {}  # the answer to an older call does not count
    poll_until(lambda: other.dispatcher._versions == bench.store.counters())
    assert agent.sync(free=0).leases == lost


def test_a_worker_that_comes_back_is_idle_since_then_whatever_was_known_of_it_before(
    bench: Bench, other: Bench, clock: Clock
) -> None:
    agent = bench.worker()
    agent.sync()
    agent.bench = other
    other.submit()
    (lease,) = agent.sync().leases
    clock.advance(30)
    agent.sync(a_result(lease, run_s=30))
    agent.bench = bench
    agent.sync()
    bench.dispatcher.flush()
    assert bench.store.workers()[0].idle_since == clock()


def test_a_late_heartbeat_sets_nothing_back(bench: Bench, other: Bench, clock: Clock) -> None:
    bench.submit()
    agent = bench.worker()
    agent.sync()
    late = bench.dispatcher._beat(bench.dispatcher.sessions[agent.admission.worker_id])
    clock.advance(10)
    agent.bench = other
    agent.sync()
    agent.sync()  # the first one may be flushed before it is known what the worker holds
    other.dispatcher.flush()
    bench.store.flush_beats([late])
    assert bench.store.workers()[0].seen_at == clock()
    with bench.store.read() as db:
        deadline = db.execute(select(schema.attempt.c.deadline)).scalar_one()
    assert deadline == clock() + bench.store.settings.worker.lease_s


def test_one_process_sweeps_until_it_is_silent_or_ends(bench: Bench, other: Bench, clock: Clock) -> None:
    def swept() -> int:
        return bench.store.counters().get("swept_ms", 0)

    bench.dispatcher.sweep(10)
    first = swept()
    clock.advance(9)
    other.dispatcher.sweep(10)
    assert swept() == first
    clock.advance(2)
    other.dispatcher.sweep(10)
    assert swept() == round(clock() * 1_000) > first
    other.dispatcher.stop()
    clock.advance(1)
    bench.dispatcher.sweep(10)
    assert swept() == round(clock() * 1_000)


# ---------------------------------------------------------------- all at once


def test_many_workers_at_once_run_each_job_exactly_once(bench: Bench) -> None:
    ids = bench.submit(count=60)
    ran: list[int] = []

    def work(agent: Agent) -> None:
        report: tuple[Result, ...] = ()
        while True:
            reply = agent.sync(*report)
            if not reply.leases and not report:
                return
            ran.extend(lease.job for lease in reply.leases)
            report = tuple(a_result(lease, run_s=5) for lease in reply.leases)

    agents = [bench.worker(f"w{number}", slots=3) for number in range(8)]
    for done in [bench.threads.submit(work, agent) for agent in agents]:
        done.result(30)
    assert sorted(ran) == sorted(ids)
    assert set(bench.states(*ids)) == {"FINISHED"}


def test_one_bad_call_does_not_fail_those_that_were_combined_with_it(bench: Bench) -> None:
    bench.submit(count=4)
    agents = [bench.worker(f"w{number}") for number in range(4)]
    broken = bench.worker("broken")
    session = bench.dispatcher.session(broken.admission.worker_id, broken.admission.credential)
    session.row = replace(session.row, capacity=None)  # type: ignore[arg-type]
    answers = [bench.threads.submit(agent.sync) for agent in (*agents, broken)]
    assert [len(answer.result(SOON_S).leases) for answer in answers[:4]] == [1, 1, 1, 1]
    assert answers[4].exception(SOON_S) is not None
