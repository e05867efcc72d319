"""The two calls that workers of Coalition 3.x and 4.0 make for each job, answered in gunicorn's loop (see door.py).

As there, whatever is out of the ordinary is left to the routes of legacy.py: another call, a worker that is not known here or is
new in something, a caller that must log in, a run that must be looked up.
"""

from __future__ import annotations

from collections.abc import Callable
from urllib.parse import parse_qsl

from coalition.config import LOOPBACK
from coalition.model import SyncReply
from coalition.server.dispatcher import Session, Turn
from coalition.server.old_workers import Agent, Agents, Machine, Run, exit_code, exit_words, lease_text, machine_of
from coalition.server.requests import Request, answer
from coalition.store.workers import in_networks

FORM = "application/x-www-form-urlencoded"
BROWSERS = ("origin", "sec-fetch-site")  # sent by no old worker
WHOLE = frozenset("0123456789")
Taken = tuple[Turn, Callable[[SyncReply], bytes]]


def taken(agents: Agents, read: Request, peer: str) -> Taken | None:
    """The call, begun, and how it is answered; None for what a thread is to serve."""
    if read.path not in ("/workers/pickjob", "/workers/endjob") or not agents.alone or not _is_let_in(agents, read, peer):
        return None
    form = _form(read)
    machine = machine_of(form)
    agent = agents.known(machine)
    session = agents.farm.dispatcher.sessions.get(agent.id) if agent else None
    if agent is None or session is None:
        return None
    if read.path == "/workers/pickjob":
        return _pick(agents, agent, session, machine)
    run = agent.run
    if run is None or form.get("jobId") != str(run.job_id):
        return None
    code = form.get("errorCode", "")
    return _end(agents, agent, session, machine, run, int(code)) if code and len(code) < 10 and WHOLE.issuperset(code) else None


def _is_let_in(agents: Agents, read: Request, peer: str) -> bool:
    """Whether who calls need not prove himself, as auth.py has it for these calls."""
    fields, rules = read.fields, agents.farm.settings.auth
    if fields.get("content-type") != FORM or "x-forwarded-for" in fields or any(name in fields for name in BROWSERS):
        return False
    if fields.get("user-agent", "").startswith("Mozilla/") or "authorization" in fields:
        return False
    if rules.mode == "none":
        return bool(LOOPBACK.match(fields["host"].partition(":")[0]))
    return in_networks(peer, rules.legacy_networks)


def _form(read: Request) -> dict[str, str]:
    """The fields of a form; nothing where a name comes twice, or a byte is no ASCII."""
    pairs = parse_qsl(read.body.decode("ascii", "replace"), keep_blank_values=True)
    form = dict(pairs)
    return form if len(form) == len(pairs) and read.body.isascii() else {}


def _pick(agents: Agents, agent: Agent, session: Session, machine: Machine) -> Taken | None:
    dispatcher = agents.farm.dispatcher
    call = agents.call(session, machine, free=1)
    if not dispatcher.is_ordinary(session, call):
        return None

    def told(reply: SyncReply) -> bytes:
        return _text(lease_text(agents.farm, agents.picked(agent, reply)))

    return dispatcher.begin(session, call), told


def _end(agents: Agents, agent: Agent, session: Session, machine: Machine, run: Run, code: int) -> Taken | None:
    dispatcher, code = agents.farm.dispatcher, exit_code(code)
    call = agents.call(session, machine, finished=(agents.result(run, code, exit_words(code)),))
    if not dispatcher.is_ordinary(session, call):
        return None

    def told(_reply: SyncReply) -> bytes:
        if agent.run is run:
            agent.run = None
        return _text("true")

    return dispatcher.begin(session, call), told


def _text(text: str) -> bytes:
    return answer(text.encode(), b"text/plain; charset=utf-8")
