"""GET /metrics for Prometheus, and whether this server is alive (healthz) and fit to serve (readyz)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

from flask import Blueprint, Response

import coalition
from coalition import metrics
from coalition.errors import CoalitionError
from coalition.matching import Requirement
from coalition.metrics import Sample
from coalition.schema_version import current, require
from coalition.server import web
from coalition.server.web import Farm
from coalition.store import Store
from coalition.store.base import probe
from coalition.values import MICRO

blueprint = Blueprint("measures", __name__)

TEXT = "text/plain; version=0.0.4; charset=utf-8"
KEPT_S = 1.0  # what was looked up is not looked up again for so long, however many ask
KINDS = 100  # of requirements in the queue that are told one by one


@blueprint.get("/healthz")
def healthz() -> Response:
    return web.reply({"ok": probe(web.farm().store)})


@blueprint.get("/readyz")
def readyz() -> Response:
    """200 if a balancer may send calls here, 503 with what is wrong otherwise."""
    problems = dict(_problems(web.farm()))
    return web.reply({"ok": not problems, "problems": problems}, 503 if problems else 200)


def _problems(farm: Farm) -> Iterator[tuple[str, str]]:
    if not farm.dispatcher.is_running:
        yield "dispatcher", "its threads do not run: the server begins or ends"
    try:
        probe(farm.store)
        require(current(farm.store))
    except CoalitionError as error:
        yield "database", error.detail


@blueprint.get("/metrics")
def scrape() -> Response:
    farm = web.farm()
    kept = farm.answers.get("metrics", KEPT_S, lambda: metrics.text(list(samples(farm.store))))
    return Response(kept.body, content_type=TEXT)


def samples(store: Store) -> Iterator[Sample]:
    """What the database tells."""
    yield metrics.BUILD, (coalition.__version__,), 1
    yield from ((metrics.JOBS, (state.upper(),), count) for state, count in store.farm_jobs().items())
    queue = Counter[str]()
    for need, count in store.queue():
        queue[_named(need)] += count
    most = queue.most_common(KINDS)
    yield from ((metrics.QUEUE, (name,), count) for name, count in most)
    yield metrics.QUEUE, ("others",), queue.total() - sum(count for _, count in most)
    workers = store.farm_workers()
    yield from ((metrics.WORKERS, (state,), count) for state, count in workers["workers"].items())
    total, busy = workers["slots"]["total"], workers["slots"]["busy"]
    yield metrics.SLOTS, ("busy",), busy
    yield metrics.SLOTS, ("free",), max(0, total - busy)
    for pool in store.pools():
        yield from ((metrics.INSTANCES, (pool["name"], state), count) for state, count in pool["instances"].items())
    yield from ((metrics.UNSENT, (channel,), count) for channel, count in store.unsent_counts().items())
    for budget in store.budgets():
        yield from _money(budget)


def _money(budget: dict[str, Any]) -> Iterator[Sample]:
    labels = (budget["name"], budget["currency"])
    for metric, name in ((metrics.CAP, "cap"), (metrics.SPENT, "spent"), (metrics.RESERVED, "reserved")):
        yield metric, labels, budget[f"{name}_micro"] / MICRO


def _named(need: Requirement) -> str:
    """A requirement by its tags, in their order; `any` without one."""
    return ",".join(sorted(need.tags)) or "any"
