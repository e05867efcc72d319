"""What is measured: names as Prometheus wants them, what counts, who may ask, and the sum of several processes."""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from flask import Flask
from prometheus_client.parser import text_string_to_metric_families

from autoscaler.counted import Counted
from coalition import metrics
from coalition.config import AuthSettings
from coalition.errors import Unavailable
from coalition.metrics import Metric
from coalition.server.app import create_app
from providers.base import Reason, Rejected, Unknown
from scripts import reference
from tests.builders import Agent, Caller, Clock, WatchedStore, a_budget, a_group, a_job
from tests.cloud_world import World

NOT_BASE = re.compile(r"_(milliseconds|ms|micro|minutes|hours|kilobytes|mb|percent)(_|$)")
Values = dict[tuple[str, frozenset[tuple[str, str]]], float]


def parsed(text: str) -> Values:
    """Every sample by its name and labels."""
    families = text_string_to_metric_families(text)
    return {(one.name, frozenset(one.labels.items())): one.value for family in families for one in family.samples}


class Scraped:
    """Two scrapes and what moved between them: other tests of this process have counted, too."""

    def __init__(self, app: Flask) -> None:
        self.app = app
        self.before = self.values()

    def values(self) -> Values:
        self.app.extensions["coalition"].answers.forget()
        return parsed(Caller(self.app).raw("GET", "/metrics").get_data(as_text=True))

    def moved(self, name: str, **labels: str) -> float:
        key = (name, frozenset(labels.items()))
        return self.values().get(key, 0.0) - self.before.get(key, 0.0)

    def now(self, name: str, **labels: str) -> float | None:
        return self.values().get((name, frozenset(labels.items())))


@pytest.fixture
def scraped(app: Flask) -> Scraped:
    return Scraped(app)


# ---------------------------------------------------------------- names


@pytest.mark.parametrize("metric", metrics.ALL, ids=lambda metric: metric.name)
def test_names_types_and_units_are_those_of_prometheus(metric: Metric) -> None:
    assert re.fullmatch(r"coalition_[a-z]+(_[a-z]+)*", metric.name)
    assert metric.name.endswith("_total") == (metric.kind == "counter")
    assert not NOT_BASE.search(metric.name), "base units only"
    assert (metric.kind != "histogram") or metric.name.endswith("_seconds")
    assert not re.search(r"_(count|sum|bucket|created)$", metric.name), "those are a histogram's own"
    assert all(re.fullmatch("[a-z]+", label) and label != "le" for label in metric.labels)
    assert metric.help.endswith(".")
    assert metric.kind in ("counter", "histogram", "gauge")


def test_each_name_is_there_once_and_documented() -> None:
    names = [metric.name for metric in metrics.ALL]
    assert len(names) == len({*names})
    page = reference.what_is_measured()
    assert [name for name in names if f"| `{name}` |" not in page] == []


def test_all_of_them_are_answered_with_type_and_help(scraped: Scraped) -> None:
    response = Caller(scraped.app).raw("GET", "/metrics")
    text = response.get_data(as_text=True)
    assert response.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
    for metric in metrics.ALL:
        assert metric.labels or f"# TYPE {metric.name} {metric.kind}" in text
        assert f"# HELP {metric.name} {metric.help}" in text or metric in metrics.COUNTED
    assert "_created" not in text


# ---------------------------------------------------------------- what counts


def test_a_job_s_way_is_counted(scraped: Scraped, clock: Clock) -> None:
    call = Caller(scraped.app)
    tags = [["linux", "big"], ["big", "linux"], []]
    call.submit(*({"command": "true", "affinity": some} for some in tags))
    assert scraped.now("coalition_queue_jobs", requirement="big,linux") == 2
    assert scraped.now("coalition_queue_jobs", requirement="any") == 1
    assert scraped.now("coalition_jobs", state="WAITING") == 3
    agent = Agent(scraped.app, affinity=[["linux", "big"]])
    held = [lease["attempt"] for lease in agent.sync(free=2)["leases"]]
    assert scraped.moved("coalition_leases_granted_total") == 2
    assert scraped.now("coalition_workers", state="WORKING") == 1
    assert [scraped.now("coalition_worker_slots", use=use) for use in ("busy", "free")] == [2, 0]
    ended = [{"attempt": one, "state": state, "run_s": 1.0} for one, state in zip(held, ("FINISHED", "ERROR"), strict=True)]
    agent.sync(*ended, free=0)
    assert [scraped.moved("coalition_attempts_ended_total", result=one) for one in ("finished", "error")] == [1, 1]
    assert scraped.moved("coalition_dispatch_transaction_duration_seconds_count") >= 2
    agent.call.raw("PUT", f"/attempts/{held[0]}/log?offset=0", data=b"x" * 100)
    assert scraped.moved("coalition_log_written_bytes_total") == 100


def test_requests_are_counted_by_route_never_by_address(scraped: Scraped) -> None:
    call = Caller(scraped.app)
    for job in (998, 999):
        call("GET", f"/jobs/{job}")
    call("GET", "/nowhere/at/all")
    route = "/api/v1/jobs/{job_id}"
    assert scraped.moved("coalition_http_requests_total", route=route, method="GET", status="404") == 2
    assert scraped.moved("coalition_http_request_duration_seconds_count", route=route) == 2
    assert scraped.moved("coalition_http_requests_total", route="none", method="any", status="404") == 1


def test_leases_that_expire_are_counted(scraped: Scraped, store: WatchedStore, clock: Clock) -> None:
    Caller(scraped.app).submit({"command": "true"})
    Agent(scraped.app).sync(free=1)
    dispatcher = scraped.app.extensions["coalition"].dispatcher
    for _ in range(4):
        clock.advance(25)
        dispatcher.sweep(1e9)
    assert scraped.moved("coalition_leases_expired_total") == 1


def test_of_many_kinds_in_the_queue_the_rest_is_told_as_one(scraped: Scraped, store: WatchedStore) -> None:
    store.submit([a_group("g", *(a_job(affinity=(f"t{number}",)) for number in range(105)))])
    told = [value for (name, _), value in scraped.values().items() if name == "coalition_queue_jobs"]
    assert (len(told), sum(told)) == (101, 105)
    assert scraped.now("coalition_queue_jobs", requirement="others") == 5


def test_money_is_told_in_units_of_its_currency(store: WatchedStore, clock: Clock) -> None:
    store.settings = replace(store.settings, budgets=(a_budget("night", "farm", amount_micro=12_500_000, currency="EUR"),))
    seen = Scraped(create_app(store.settings, store, clock))
    told = [seen.now(f"coalition_budget_{one}", budget="night", currency="EUR") for one in ("cap", "spent", "reserved")]
    assert told == [12.5, 0, 0]


def test_decisions_and_what_providers_say_are_counted(tmp_path: Path) -> None:
    world = World(tmp_path)
    seen = Scraped(create_app(world.settings, world.store, world.clock))
    world.scaler.providers = {"fake": Counted("fake/test", world.fake)}
    world.submit(1)
    world.fake.faults.errors["list"].append(Unknown("no answer"))
    world.fake.faults.errors["launch"].append(Rejected(Reason.CAPACITY, "none left"))
    world.tick()
    assert seen.moved("coalition_autoscaler_decide_duration_seconds_count") == 1
    assert seen.moved("coalition_autoscaler_tick_duration_seconds_count") == 1
    for call, outcome in (("list", "unknown"), ("launch", "capacity"), ("offerings", "ok"), ("notices", "ok")):
        assert seen.moved("coalition_provider_calls_total", provider="fake/test", call=call, outcome=outcome) == 1
    world.clock.wait(1_000)
    world.tick()
    assert seen.now("coalition_instances", pool="p", state="STARTING") == 1
    world.store.close()


# ---------------------------------------------------------------- several processes

COUNTING = """
import sys
from pathlib import Path
from coalition import metrics
metrics.share(Path(sys.argv[1]))
metrics.add(metrics.LEASES, by=int(sys.argv[2]))
metrics.add(metrics.HTTP_REQUESTS, "/x", "GET", "200")
metrics.took(metrics.DECIDE_SECONDS, 0.002)
print(metrics.text([]).decode() if sys.argv[2] == "4" else "")
"""


def test_each_process_answers_with_the_sum_of_all_also_of_those_that_ended(tmp_path: Path) -> None:
    told = ""
    for count in ("2", "1", "4"):
        command = [sys.executable, "-W", "error", "-c", COUNTING, str(tmp_path), count]
        told = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout
    values = parsed(told)
    assert values["coalition_leases_granted_total", frozenset()] == 7
    labels = frozenset({("route", "/x"), ("method", "GET"), ("status", "200")})
    assert values["coalition_http_requests_total", labels] == 3
    assert values["coalition_autoscaler_decide_duration_seconds_count", frozenset()] == 3
    assert values["coalition_autoscaler_decide_duration_seconds_bucket", frozenset({("le", "0.0025")})] == 3
    assert "pid" not in told


# ---------------------------------------------------------------- who may ask, health


@pytest.fixture
def locked(store: WatchedStore) -> Flask:
    store.settings = replace(store.settings, auth=AuthSettings(mode="token"))
    return create_app(store.settings, store, store.clock)


@pytest.mark.parametrize(
    ("address", "headers", "status"),
    [
        ("127.0.0.1", {}, 200),
        ("::1", {}, 200),
        ("10.1.2.3", {}, 401),
        ("127.0.0.1", {"X-Forwarded-For": "10.1.2.3"}, 401),
        ("127.0.0.1", {"Forwarded": "for=10.1.2.3"}, 401),
        ("127.0.0.1", {"User-Agent": "Mozilla/5.0"}, 401),
        ("127.0.0.1", {"Sec-Fetch-Site": "same-origin"}, 401),
        ("127.0.0.1", {"Authorization": "Bearer wrong"}, 401),
    ],
)
def test_without_a_token_only_the_named_networks_may_ask(
    locked: Flask, address: str, headers: dict[str, str], status: int
) -> None:
    answer = Caller(locked).raw("GET", "/metrics", headers=headers, environ_base={"REMOTE_ADDR": address})
    assert answer.status_code == status


def test_a_token_that_may_see_all_may_ask_from_anywhere(locked: Flask, store: WatchedStore) -> None:
    far = {"environ_base": {"REMOTE_ADDR": "10.1.2.3"}}
    viewer = store.create_token("user", user="prometheus", role="user", scope=["view"])
    assert Caller(locked, viewer).raw("GET", "/metrics", **far).status_code == 200
    creator = store.create_token("user", user="ann", role="user", scope=["create"])
    assert Caller(locked, creator).raw("GET", "/metrics", **far).status_code == 403


def test_a_server_is_ready_while_its_threads_run_and_its_database_answers(
    app: Flask, store: WatchedStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    call = Caller(app)
    assert call("GET", "/readyz") == (200, {"ok": True, "problems": {}})

    def away() -> None:
        raise Unavailable("the database is away; try again")

    monkeypatch.setattr(store, "read", away)
    assert call("GET", "/readyz") == (503, {"ok": False, "problems": {"database": "the database is away; try again"}})
    monkeypatch.undo()
    app.extensions["coalition"].dispatcher.let_go()
    status, answer = call("GET", "/readyz")
    assert (status, [*answer["problems"]]) == (503, ["dispatcher"])


MANY_AT_ONCE = """
import sys, threading
from coalition import metrics

sys.setswitchinterval(1e-6)
names = [f"coalition_race_{number}_total" for number in range(50)]
together = threading.Barrier(8)

def count():
    for name in names:
        together.wait(20)
        metrics.add(MADE[name], "here")

MADE = {name: metrics.Metric(name, "counter", "A race.", ("where",)) for name in names}
threads = [threading.Thread(target=count) for _ in range(8)]
for thread in threads: thread.start()
for thread in threads: thread.join()
print(metrics.text([]).decode().count('_total{where="here"} 8.0'))
"""


def test_the_first_requests_of_a_process_that_come_together_are_all_counted() -> None:
    ended = subprocess.run([sys.executable, "-c", MANY_AT_ONCE], capture_output=True, text=True, timeout=60, check=False)
    assert (ended.stdout.strip(), ended.stderr) == ("50", "")
