"""What is measured, for Prometheus: one table of all metrics, and how they are counted.

A metric is counted by the process in which it happens (COUNTED), or is looked up in the database when somebody asks (LOOKED_UP):
the same whichever process of whichever server answers. Several processes of a server count in files of one folder, which is
named before the first of them counts (`share`); then each can tell the sum of all. What a process that ended has counted stays
in the sum. One process counts in its memory.

Names follow Prometheus: a unit in the name where there is one (seconds, bytes), counters end in `_total`.
"""

from __future__ import annotations

import functools
import os
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry

SHORT = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
FOLDER = "PROMETHEUS_MULTIPROC_DIR"  # where the library looks for it


@dataclass(frozen=True, eq=False)
class Metric:
    """A name, what it tells, and by what it is divided. `kind` is counter, histogram or gauge."""

    name: str
    kind: str
    help: str
    labels: tuple[str, ...] = ()


HTTP_REQUESTS = Metric("coalition_http_requests_total", "counter", "Requests answered.", ("route", "method", "status"))
HTTP_SECONDS = Metric(
    "coalition_http_request_duration_seconds",
    "histogram",
    "From a request's arrival to its answer; a worker's sync may wait in it for a job.",
    ("route",),
)
LEASES = Metric("coalition_leases_granted_total", "counter", "Jobs given to workers: the rate of dispatch.")
EXPIRED = Metric("coalition_leases_expired_total", "counter", "Leases taken from workers that fell silent.")
RESULTS = Metric("coalition_attempts_ended_total", "counter", "Results of attempts that were taken.", ("result",))
EXCHANGE_SECONDS = Metric(
    "coalition_dispatch_transaction_duration_seconds",
    "histogram",
    "A transaction that answers the syncs of up to 32 workers, with the wait for its turn: the latency of dispatch.",
)
DECIDE_SECONDS = Metric("coalition_autoscaler_decide_duration_seconds", "histogram", "One decision of the autoscaler.")
TICK_SECONDS = Metric(
    "coalition_autoscaler_tick_duration_seconds", "histogram", "A round of the autoscaler, with its calls of providers."
)
PROVIDER_CALLS = Metric(
    "coalition_provider_calls_total",
    "counter",
    "Calls of providers; `outcome` is ok, the reason of a refusal, unknown, late or error.",
    ("provider", "call", "outcome"),
)
LOG_BYTES = Metric("coalition_log_written_bytes_total", "counter", "Bytes of jobs' logs that were kept.")
LOG_INS = Metric("coalition_logins_total", "counter", "Log-ins by name and password.", ("outcome",))

NOTICES = Metric("coalition_notices_sent_total", "counter", "Mails and calls of webhooks.", ("channel", "outcome"))

COUNTED: tuple[Metric, ...] = (
    HTTP_REQUESTS,
    HTTP_SECONDS,
    LEASES,
    EXPIRED,
    RESULTS,
    EXCHANGE_SECONDS,
    DECIDE_SECONDS,
    TICK_SECONDS,
    PROVIDER_CALLS,
    LOG_BYTES,
    LOG_INS,
    NOTICES,
)

BUILD = Metric("coalition_build_info", "gauge", "1, with the version of the server that answers.", ("version",))
JOBS = Metric("coalition_jobs", "gauge", "Jobs of the farm, without groups.", ("state",))
QUEUE = Metric(
    "coalition_queue_jobs",
    "gauge",
    "Jobs that could start now, by the tags that they need; of many kinds the rest stands under `others`.",
    ("requirement",),
)
WORKERS = Metric("coalition_workers", "gauge", "Workers that are there.", ("state",))
SLOTS = Metric("coalition_worker_slots", "gauge", "Slots of the workers that take jobs.", ("use",))
INSTANCES = Metric("coalition_instances", "gauge", "Machines that are paid for.", ("pool", "state"))
BUDGET = ("budget", "currency")
CAP = Metric("coalition_budget_cap", "gauge", "The cap of a budget's window, in units of its currency.", BUDGET)
SPENT = Metric("coalition_budget_spent", "gauge", "Spent in the window so far, in units of the currency.", BUDGET)
RESERVED = Metric("coalition_budget_reserved", "gauge", "Reserved for machines that run, in units of the currency.", BUDGET)
UNSENT = Metric("coalition_notices_waiting", "gauge", "What is to be told and was not sent yet.", ("channel",))

LOOKED_UP: tuple[Metric, ...] = (BUILD, JOBS, QUEUE, WORKERS, SLOTS, INSTANCES, CAP, SPENT, RESERVED, UNSENT)
ALL = (*COUNTED, *LOOKED_UP)

Sample = tuple[Metric, tuple[str, ...], float]

_making = threading.Lock()


def share(folder: Path) -> None:
    """From now on this process, and those that it starts, count in files of a folder. Before anything is counted."""
    os.environ[FOLDER] = str(folder)


def add(metric: Metric, *labels: str, by: float = 1) -> None:
    """Counts something."""
    _child(metric, labels).inc(by)


def took(metric: Metric, seconds: float, *labels: str) -> None:
    """Notes how long something took."""
    _child(metric, labels).observe(seconds)


@functools.cache
def _child(metric: Metric, labels: tuple[str, ...]) -> Any:
    """What counts a metric for these labels. They must be few: routes, states, outcomes; never what people write."""
    with _making:  # a second of the same name would be refused
        return _counting(metric).labels(*labels) if metric.labels else _counting(metric)


@functools.cache
def _counting(metric: Metric) -> Any:
    from prometheus_client import Counter, Histogram

    if metric.kind == "counter":
        return Counter(metric.name, metric.help, metric.labels, registry=_registry())
    return Histogram(metric.name, metric.help, metric.labels, registry=_registry(), buckets=SHORT)


@functools.cache
def _registry() -> CollectorRegistry:
    """The metrics of this process. It is loaded late: the library looks at FOLDER when it is imported."""
    from prometheus_client import CollectorRegistry, disable_created_metrics

    disable_created_metrics()  # type: ignore[no-untyped-call]
    return CollectorRegistry()


def text(samples: Sequence[Sample]) -> bytes:
    """All metrics in Prometheus' text format: what was counted, and the given samples of what is looked up."""
    from prometheus_client import CollectorRegistry, generate_latest
    from prometheus_client.multiprocess import MultiProcessCollector

    for metric in COUNTED:  # 0 where nothing happened yet
        if not metric.labels:
            _child(metric, ())
    counted = _registry()
    if FOLDER in os.environ:
        counted = CollectorRegistry()
        MultiProcessCollector(counted)  # type: ignore[no-untyped-call]
    looked_up = CollectorRegistry()
    looked_up.register(_Samples(samples))
    return bytes(generate_latest(counted) + generate_latest(looked_up))


class _Samples:
    """What was looked up, as the library takes it."""

    def __init__(self, samples: Sequence[Sample]) -> None:
        self.samples = samples

    def collect(self) -> list[Any]:
        from prometheus_client.core import GaugeMetricFamily

        families = {metric: GaugeMetricFamily(metric.name, metric.help, labels=metric.labels) for metric in LOOKED_UP}
        for metric, labels, value in self.samples:
            families[metric].add_metric(labels, value)
        return list(families.values())
