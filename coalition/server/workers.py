"""Routes of workers: what people see and change, and the two that the agents call."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from flask import Blueprint, Response, g, request

from coalition.config import Settings
from coalition.discovery import prove
from coalition.errors import BadInput, NotAuthenticated, NotFound, TooManyTries
from coalition.model import MAX_INT, PROTOCOL, Challenge, Enrol, Enrolled, Proof, Result, Selection, Sync, WorkerEdit
from coalition.server import log_keeping, web
from coalition.server.auth import for_caller
from coalition.server.dispatcher import Session
from coalition.server.rows import PAGING, shared, whole
from coalition.states import WorkerState
from coalition.store.bulk import Action
from coalition.store.workers import Admission, in_networks

blueprint = Blueprint("workers", __name__)

LOOPBACKS = ("127.0.0.0/8", "::1/128")
OLDEST_PROTOCOL = 1
REFUSED_ENROLMENTS = 50  # from an address, before each further try has to wait longer


@blueprint.get("/workers")
@shared
def index() -> Response:
    web.refuse_unknown("sort", "state", *PAGING)
    found = web.farm().store.workers(g.identity.viewer, web.choices("state", list(WorkerState)))
    return whole(
        "workers",
        for_caller(found, "workers"),
        "name",
        ("name", "id", "state", "running", "load", "seen_at"),
    )


@blueprint.get("/workers/<int:worker_id>")
def show(worker_id: int) -> Response:
    web.refuse_unknown()
    return web.reply(for_caller([web.farm().store.worker(min(worker_id, MAX_INT), g.identity.viewer)], "workers")[0])


@blueprint.get("/workers/<int:worker_id>/explain")
def explain(worker_id: int) -> Response:
    if worker_id > MAX_INT:
        raise NotFound(f"there is no worker {worker_id}")
    worker, reasons = web.farm().store.explain_worker(worker_id)
    return web.reply({"worker": worker.id, "name": worker.name, "state": worker.state, "reasons": reasons})


@blueprint.patch("/workers")
def edit() -> Response:
    wanted = web.body(WorkerEdit)
    web.refuse_nothing(wanted.changes)
    return act("edit_workers", wanted.ids, wanted.changes)


@blueprint.post("/workers/drain")
def drain() -> Response:
    return act("drain_workers", web.body(Selection).ids)


@blueprint.post("/workers/resume")
def resume() -> Response:
    return act("resume_workers", web.body(Selection).ids)


@blueprint.post("/workers/delete")
def delete() -> Response:
    return act("delete_workers", web.body(Selection).ids)


def act(name: str, ids: Sequence[int], *values: Any) -> Response:
    """One action on all these workers or instances: all or none, unless the call says `partial`; only told, with `dry_run`."""
    web.refuse_unknown("partial", "dry_run")
    farm, who = web.farm(), g.identity.name
    action = Action(name, ids, values=values, partial=web.flag("partial"))
    if web.flag("dry_run"):
        return web.reply(farm.store.rehearse(action, who))
    done = farm.store.act_on_each(action, who)
    farm.dispatcher.kick()
    return web.reply(done)


@blueprint.get("/affinities")
@shared
def affinities() -> Response:
    web.refuse_unknown("sort", *PAGING)
    return whole("affinities", web.farm().store.affinities(g.identity.viewer), "tag", ("tag", "workers", "jobs"))


# ---------------------------------------------------------------- what agents call


@blueprint.post("/discovery")
def discover() -> Response:
    """The datagram's twin, for addresses that DNS or a cloud tells."""
    farm, asked = web.farm(), web.body(Challenge)
    peer = request.remote_addr or "127.0.0.1"
    proof = prove(farm.settings, farm.store.discovery_key, asked.farm, asked.nonce, asked.token, peer)
    if proof is None:
        raise NotFound("this is no server of that farm, or it does not know its own address; [server] url tells it")
    return web.reply(Proof(**proof))


@blueprint.post("/workers/enrol")
def enrol() -> Response:
    farm = web.farm()
    wanted = web.body(Enrol)
    if wanted.protocol < OLDEST_PROTOCOL:
        raise BadInput(
            fields={"protocol": f"{wanted.protocol} is too old; update the worker to speak {OLDEST_PROTOCOL} or later"}
        )
    admission = _admitted(farm, wanted, request.remote_addr or "")
    settings = farm.settings
    return web.reply(
        Enrolled(
            worker=admission.worker_id,
            name=admission.name,
            credential=admission.credential,
            epoch=admission.epoch,
            farm=settings.server.farm,
            protocol=min(PROTOCOL, wanted.protocol),
            sync_s=settings.worker.sync_s,
            lease_s=settings.worker.lease_s,
            grace_s=settings.worker.grace_s,
            umask=settings.worker.umask,
            nice=settings.worker.nice,
            paths=[asdict(rule) for rule in settings.paths],
            environment=_environment(settings.worker.environment),
            run_as=settings.worker.run_as,
        ),
        201,
    )


def _admitted(farm: web.Farm, wanted: Enrol, address: str) -> Admission:
    """Lets the worker in; TooManyTries where too many were refused from its address, except for one that brings a credential."""
    key = f"enrol @{address}"
    wait_s = 0.0 if wanted.credential else farm.store.must_wait({key: REFUSED_ENROLMENTS})
    if wait_s:
        raise TooManyTries(f"too many workers were refused; try again in {wait_s:.0f} s", wait_s)
    try:
        return farm.store.enrol(wanted, open_door=_door_is_open(farm.settings), address=address)
    except NotAuthenticated:
        farm.store.count_try({key: REFUSED_ENROLMENTS})
        raise


def _door_is_open(settings: Settings) -> bool:
    """Whether this caller may enrol without a token: from `enrol_from`, or from loopback where nobody logs in at all."""
    networks = settings.auth.enrol_from + (LOOPBACKS if settings.auth.mode == "none" else ())
    return in_networks(request.remote_addr, networks)


def _environment(pairs: Sequence[str]) -> Mapping[str, str]:
    return {name: value for name, _, value in (pair.partition("=") for pair in pairs)}


@blueprint.post("/workers/<int:worker_id>/sync")
def sync(worker_id: int) -> Response:
    """A worker's call. Most are answered before they come here (see door.py)."""
    farm, session, call = web.farm(), g.session, web.body(Sync)
    if session.row.id != worker_id:
        raise BadInput(fields={"worker": f"the credential belongs to worker {session.row.id}"})
    keep_logs(farm, session, call)
    return web.reply(farm.dispatcher.sync(session, call))


def keep_logs(farm: web.Farm, session: Session, call: Sync) -> None:
    """The short logs that ride in a call's report are kept before it counts."""
    for result in call.finished:
        if result.log:
            _keep_log(farm, session, result)


def _keep_log(farm: web.Farm, session: Session, result: Result) -> None:
    try:
        data = base64.b64decode(result.log, validate=True)
    except ValueError:  # also binascii.Error
        raise BadInput(fields={"finished.log": "is not base64"}) from None
    if result.attempt not in session.open:
        holder = farm.store.attempt_holder(result.attempt)
        if holder is None or holder[0] != session.row.id:
            return
    log_keeping.keep(farm, result.attempt, result.log_offset, data)
