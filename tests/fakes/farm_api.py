"""A farm to look at: the API that the web page reads, over lively canned data, and the page itself.

Scenes: lively (a film's frames in work), empty, busy (much of everything), huge (100,000 jobs at the top and 100,000 in one
group), hostile (markup and control characters in every text), token (lively, but "demo.secret" is asked for).
`python -m tests.fakes.farm_api lively 8080` serves one by hand.
"""

from __future__ import annotations

import copy
import itertools
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

from flask import Flask, Response, abort, jsonify, request

from coalition.filters import Term, parse
from coalition.model import Attempt, Counts, Job, Worker, to_dict
from coalition.server import page
from coalition.server.rows import some_fields
from tests.fakes.farm_scenes import (
    CURRENCY,
    GROUP_OF_MANY,
    HOSTILE,
    HUGE,
    PRICE,
    a_budget,
    a_job,
    a_worker,
    an_instance,
    crowd,
    hostile_jobs,
    hostile_workers,
    huge_job,
    huge_page,
    other_jobs,
)

API = "/api/v1"
TOKEN = "demo.secret"
SECONDS_PER_FRAME = 23
SLOTS = 10


def fits(term: Term, job: Job) -> bool:
    """Whether a job fits a term of a filter; of the fields that the tests of the page use."""
    if term.field in ("created", "started", "ended"):
        return ((getattr(job, f"{term.field}_at") or 0.0) > term.values[0]) != term.negated  # the page asks for later ones
    value = getattr(job, term.field)
    texts = [str(one).lower() for one in term.values]
    return any(one in value.lower() if term.field == "title" else one == str(value).lower() for one in texts) != term.negated


class Farm:
    """The jobs and machines of one scene. Time passes: frames are rendered, one slot each."""

    def __init__(self, scene: str = "lively", age_s: float = 55.0) -> None:
        self.scene = scene
        self.began = time.time() - age_s
        self.jobs: dict[int, Job] = {}
        self.paused: set[int] = set()
        self.calls: list[tuple[str, Any]] = []
        self.away = False
        if scene == "hostile":
            self.jobs = {job.id: job for job in hostile_jobs()}
        elif scene not in ("empty", "huge"):
            self.jobs = {job.id: job for job in itertools.chain(self._film(), other_jobs(), crowd() if scene == "busy" else ())}

    # ------------------------------------------------------------ jobs

    def _film(self) -> Iterator[Job]:
        yield a_job(
            1, title="orbit, 48 frames", group=True, user="anim", affinity=("povray",), created_at=self.began - 4, priority=150
        )
        for frame in range(48):
            command = f"povray +Iorbit.pov +K{frame / 48:.4f} +W960 +H540 +Oframes/{frame + 1:04d}.png"
            yield a_job(
                10 + frame,
                parent=1,
                title=f"frame {frame + 1:04d}",
                user="anim",
                command=command,
                progress_pattern="%percent",
                created_at=self.began - 4,
                priority=150,
                environment={"OCIO": "/shows/orbit/config.ocio"},
                affinity=("povray",),
            )
        yield a_job(
            58,
            title="orbit, film",
            state="PENDING",
            user="anim",
            depends_on=(1,),
            command="python assemble.py frames orbit.gif",
            created_at=self.began - 4,
            priority=150,
            reason="waits for 1 of 1 dependencies: #1 WORKING",
        )

    def now_of(self, job: Job) -> Job:
        """A job as it is at this moment."""
        job = copy.copy(job)
        changes: dict[str, Any] = {}
        if job.id in self.paused or job.parent in self.paused:
            changes["paused"] = job.id in self.paused
            if job.id in self.paused:
                changes["allowed_actions"] = ("start", "edit", "delete")
        if job.parent == 1 and self.scene != "hostile":
            changes.update(self._frame(job))
        elif job.group and job.counts is None:
            changes.update(self._group(job))
        return Job(**{**job.__dict__, **changes})

    def _frame(self, job: Job) -> dict[str, Any]:
        """Frames start in waves, one a slot; two in the middle fail."""
        index = job.id - 10
        start = self.began + SECONDS_PER_FRAME * (index // SLOTS) + 1.7 * (index % SLOTS)
        length = SECONDS_PER_FRAME - 4 + (index * 7) % 5
        now = time.time()
        if now < start or 1 in self.paused:
            return {
                "reason": "is paused" if 1 in self.paused else f"{max(0, index - 9)} jobs before it on the 3 workers that match"
            }
        run_s = min(now - start, length)
        common = {
            "started_at": start,
            "run_s": run_s,
            "attempt": 500 + index,
            "worker": ("render-01", "render-02", "local-7")[index % 3],
            "cost_micro": int(run_s / 3_600 * PRICE),
        }
        if now < start + length:
            return {**common, "state": "WORKING", "progress": run_s / length}
        broken = index == 17
        state = "ERROR" if broken else "FINISHED"
        over = {"ended_at": start + length, "progress": 0.62 if broken else 1.0, "allowed_actions": ("reset", "edit", "delete")}
        return {**common, **over, "state": state, "errors": int(broken), "reason": "exit code 1" if broken else ""}

    def _group(self, job: Job) -> dict[str, Any]:
        children = [self.now_of(child) for child in self.jobs.values() if child.parent == job.id]
        states = [child.state for child in children]
        names = ("WAITING", "PENDING", "WORKING", "FINISHED", "ERROR")
        counts = Counts(len(states), *(states.count(name) for name in names))
        open_left = counts.waiting + counts.pending + counts.working
        started = [child.started_at for child in children if child.started_at]
        ended = [child.ended_at or 0.0 for child in children]
        worst = "ERROR" if counts.error else "FINISHED"
        return {
            "counts": counts,
            "state": "WORKING" if counts.working else ("WAITING" if open_left else worst),
            "progress": counts.finished / max(1, counts.total),
            "started_at": min(started, default=None),
            "ended_at": None if open_left or not ended else max(ended),
            "run_s": sum(child.run_s for child in children),
            "cost_micro": sum(child.cost_micro for child in children),
            "allowed_actions": ("start" if job.id in self.paused else "pause", "reset", "edit", "delete"),
        }

    def page(self, query: dict[str, str]) -> dict[str, Any]:
        """GET /jobs."""
        offset = int(query.get("offset") or 0)
        start = int(query.get("cursor") or 0) + offset
        told = {"offset": offset, "cursor": str(start)} if offset else {}
        return {**self._page(query, start, int(query.get("limit", 100))), **told}

    def _page(self, query: dict[str, str], start: int, limit: int) -> dict[str, Any]:
        if self.scene == "huge" and not query.get("filter"):
            return huge_page(int(query.get("parent", 0)), start, limit)
        found = [self.now_of(job) for job in self.jobs.values()]
        if "parent" in query:
            found = [job for job in found if job.parent == int(query["parent"])]
        found = [job for job in found if all(fits(term, job) for term in parse(query.get("filter", ""), time.time()))]
        found.sort(key=lambda job: job.id, reverse=query.get("sort", "id").startswith("-"))
        shown = found[start : start + limit]
        following = str(start + limit) if start + limit < len(found) else None
        return {"jobs": [to_dict(job) for job in shown], "next": following, "total": len(found)}

    def job(self, job_id: int) -> Job:
        """GET /jobs/{id}."""
        if self.scene == "huge":
            return huge_job(job_id, GROUP_OF_MANY if job_id > HUGE else 0)
        if job_id not in self.jobs:
            abort(404, f"there is no job {job_id}")
        return self.now_of(self.jobs[job_id])

    def explain(self, job: Job) -> list[dict[str, str]]:
        """GET /jobs/{id}/explain."""
        texts = {
            "FINISHED": [],
            "ERROR": [job.reason or "exit code 1"],
            "WORKING": [f"is running on {job.worker or '3 workers'}"],
        }
        if job.state in texts:
            return [{"code": job.state.lower(), "text": text} for text in texts[job.state]]
        if job.gpus:
            fit = "none of the 5 workers fits: for example render-02 has 0 gpus and the job needs 1"
            none = "pool gpu-spot starts nothing: budget month has $3.10 left of $40.00, and $4.32 would be needed"
            return [{"code": "no_match", "text": fit}, {"code": "budget", "text": none}]
        return [{"code": "queue", "text": job.reason or "12 jobs before it on the 3 workers that match"}]

    def change(self, action: str, body: dict[str, Any]) -> int:
        """POST /jobs/{action}."""
        self.calls.append((action, body))
        ids = set(body["ids"])
        if action == "pause":
            self.paused |= ids
        elif action == "start":
            self.paused -= ids
        elif action == "delete":
            self.jobs = {key: job for key, job in self.jobs.items() if key not in ids and job.parent not in ids}
        return len(ids)

    def log(self, job: Job) -> bytes:
        """What a job has printed by now, in colours."""
        if self.scene == "hostile":
            return f"{HOSTILE}\n\x1b[31m{HOSTILE}\x1b[0m\n\x1b]8;;javascript:window.pwned=1\x07link\x1b]8;;\x07\n".encode()
        if not job.started_at:
            return b""
        lines = [
            f"$ {job.command}",
            "\x1b[1mPersistence of Vision(tm) Ray Tracer\x1b[0m",
            "Parsing \x1b[36morbit.pov\x1b[0m, 2,341 tokens",
        ]
        rows = int(540 * job.progress)
        lines += [f"Rendering line {row:>4} of 540, {row / 5.4:5.1f}%" for row in range(0, rows, 6)]
        if job.state == "FINISHED":
            lines += ["\x1b[32mDone\x1b[0m, peak memory 312 MB"]
        if job.state == "ERROR":
            lines += [
                "\x1b[33mwarning:\x1b[0m texture cache is full",
                "\x1b[1;31mFatal error:\x1b[0m cannot write frames/0018.png: disk quota exceeded",
            ]
        return ("\n".join(lines) + "\n").encode()

    def attempts(self, job: Job) -> list[Attempt]:
        """GET /jobs/{id}/attempts."""
        if not job.attempt:
            return []
        start = job.started_at or job.created_at
        state = {"WORKING": "RUNNING"}.get(job.state, job.state)
        reason = job.reason if job.state == "ERROR" else ""
        code = None if job.state == "WORKING" else int(job.state == "ERROR")
        common = (job.id, job.title, job.worker)
        newest = Attempt(
            job.attempt,
            *common,
            state,
            start - 0.1,
            start,
            job.ended_at,
            job.run_s,
            job.progress,
            code,
            None,
            reason,
            job.cost_micro,
        )
        gone = "its worker was not heard of for 60 s"
        older = Attempt(
            job.attempt - 400, *common, "LOST", start - 90, start - 90, start - 30, 60.0, 0.2, None, None, gone, 1_600
        )
        return [newest, older] if job.id % 5 == 0 else [newest]

    # ------------------------------------------------------------ machines and money

    def workers(self, states: str = "") -> list[Worker]:
        """GET /workers."""
        return [worker for worker in self._workers() if not states or worker.state in states.split(",")]

    def worker(self, worker_id: int) -> Worker:
        """GET /workers/<id>."""
        return next((worker for worker in self.workers() if worker.id == worker_id), None) or abort(404)

    def _workers(self) -> list[Worker]:
        if self.scene in ("empty", "hostile"):
            return hostile_workers() if self.scene == "hostile" else []
        working = [self.now_of(job) for job in self.jobs.values() if job.parent == 1]
        on = {
            name: tuple(job.id for job in working if job.state == "WORKING" and job.worker == name)
            for name in ("render-01", "render-02", "local-7")
        }
        fleet = [
            a_worker(
                number,
                name,
                state="WORKING" if jobs else "WAITING",
                running=len(jobs),
                jobs=jobs,
                load=len(jobs) * 0.97 + 0.2,
                memory_free_bytes=(30 - 3 * len(jobs)) << 30,
                instance=3 if name == "local-7" else None,
                idle_since=None,
            )
            for number, (name, jobs) in enumerate(on.items(), 1)
        ]
        fleet += [
            a_worker(4, "local-8", state="STARTING", slots=4, instance=4, reason="has enrolled and not called yet", load=0.0),
            a_worker(
                5,
                "edit-suite-3",
                state="DRAINING",
                slots=8,
                running=1,
                jobs=(61,),
                affinity=(("windows", "nuke"), ("windows",)),
                reason="finishes what it runs and takes no more",
                load=3.4,
                allowed_actions=("edit", "resume", "delete"),
            ),
            a_worker(
                6, "render-03", state="TIMEOUT", seen_at=time.time() - 840, reason="has not been heard of for 14 min", load=0.0
            ),
            a_worker(
                7,
                "render-04",
                state="SICK",
                reason="is set aside: 3 errors in a row of different jobs",
                allowed_actions=("edit", "resume", "delete"),
                note="fan is loud",
                load=0.0,
            ),
        ]
        count = 60 if self.scene in ("busy", "huge") else 0
        return fleet + [
            a_worker(100 + n, f"node-{n:03d}", state="WORKING", running=4, load=3.9, jobs=(10, 11, 12, 13)) for n in range(count)
        ]

    def instances(self) -> list[dict[str, Any]]:
        """GET /instances."""
        if self.scene == "empty":
            return []
        if self.scene == "hostile":
            return [an_instance(1, "RUNNING", HOSTILE, 60, pool=HOSTILE, offering=HOSTILE, reason=HOSTILE)]
        return [
            an_instance(5, "INTENDED", "", 1, reason="14 jobs wait, 2 slots are free; this size is the cheapest per slot"),
            an_instance(4, "STARTING", "local-8", 9, reason="38 jobs wait for affinity povray and 8 slots are busy"),
            an_instance(3, "RUNNING", "local-7", 312, reason="44 jobs wait for affinity povray and 4 slots are busy"),
            an_instance(2, "DRAINING", "local-6", 1_840, reason="idle for 5 min, and its paid time ends soon"),
        ]

    def budgets(self) -> list[dict[str, Any]]:
        """GET /budgets."""
        if self.scene == "empty":
            return []
        now = time.time()
        spent = 1_412_300 + int((now - self.began) / 3_600 * 384_000)
        day = a_budget("demo", "day", 2_500_000, spent, 402_000, now)
        month = a_budget("month", "month", 40_000_000, 33_480_000, 3_420_000, now, applies_to="pool:gpu-spot")
        week = a_budget("comp", "week", 12_000_000, 2_118_000, 0, now, applies_to="group:comp", hard=False)
        return [{**day, "name": HOSTILE, "applies_to": HOSTILE}] if self.scene == "hostile" else [day, month, week]

    def costs(self, by: str) -> list[dict[str, Any]]:
        """GET /cost."""
        if self.scene == "empty":
            return []
        keys = {"day": [f"2031-05-{day:02d}" for day in range(1, 8)], "pool": ["gpu-spot", "local"], "user": ["", "anim", "comp"]}
        found = keys.get(by, ["", "1"])
        names = {"": "", "1": "orbit, 48 frames"} if by in ("group", "job") else {}
        parts = [(7 + 3 * number, number % 3, 2, 1 + number % 2) for number in range(len(found))]
        kinds = ("run_micro", "waste_micro", "boot_micro", "idle_micro")
        return [
            {
                "key": HOSTILE if self.scene == "hostile" else key,
                "name": HOSTILE if self.scene == "hostile" else names.get(key, ""),
                "currency": CURRENCY,
                "seconds": 3_600.0 * sum(part),
                "amount_micro": 100_000 * sum(part),
                **{kind: 100_000 * amount for kind, amount in zip(kinds, part, strict=True)},
            }
            for key, part in zip(found, parts, strict=True)
        ]

    def forecast(self) -> dict[str, Any]:
        """GET /forecast."""
        now, left = time.time(), 0 if self.scene == "empty" else 31
        times = {"ends_at": now + 600, "ends_early": now + 480, "ends_late": now + 900}
        money = {"cost_micro": 412_000, "cost_low_micro": 380_000, "cost_high_micro": 460_000, "currency": CURRENCY}
        return {"jobs": left, "unknown": min(left, 2), "running": 8, "at_once": 8, "work_s": 4_800.0, **times, **money}

    def history(self) -> dict[str, Any]:
        """GET /history: an evening that the farm works off."""
        if self.scene == "empty":
            return {"step_s": 300, "points": []}
        first = int((time.time() - 86_400) // 300) * 300
        points = []
        for step in range(288):
            load = max(0.0, 1 - abs(step - 200) / 90)
            slots = 8 + 4 * int(8 * load)
            busy = int(slots * min(1, 3 * load))
            counts = {"waiting": int(420 * load), "pending": int(30 * load), "working": busy, "error": step // 60}
            costs = {"instances": (slots - 8) // 4, "burn_micro": (slots - 8) * 24_000}
            points.append({"at": first + 300.0 * step, **counts, "slots": slots, "busy": busy, **costs})
        return {"step_s": 300, "points": points}

    def decisions(self) -> list[dict[str, Any]]:
        """GET /decisions."""
        if self.scene == "empty":
            return []
        now = time.time()
        rows = [
            (
                4,
                4,
                "local",
                "launch",
                1,
                "14 jobs wait and 2 slots are free: 4 slots more are wanted; small is within 10 % of the cheapest price per slot",
            ),
            (
                260,
                2,
                "gpu-spot",
                "hold",
                0,
                "1 job wants a GPU, but budget month has $3.10 left of $40.00 and $4.32 would be needed",
            ),
            (75, 75, "local", "launch", 1, "38 jobs wait for affinity povray and 8 slots are busy: 4 slots more are wanted"),
            (110, 110, "local", "drain", 1, "local-6 is idle for 5 min, and its paid time ends in 4 min"),
            (318, 318, "local", "launch", 1, "44 jobs wait for affinity povray and no slot is free"),
            (2_230, 2_230, "local", "terminate", 2, "local-4 and local-5 are drained; nothing waits for them"),
            (7_400, 2_400, "local", "hold", 0, "nothing waits"),
        ]
        if self.scene == "hostile":
            rows = [(4, 4, HOSTILE, HOSTILE, 1, HOSTILE)]
        keys = ("at", "last_at", "pool", "action", "count", "reason")
        made = [dict(zip(keys, (now - at, now - last, *rest), strict=True)) for at, last, *rest in rows]
        return [{"id": len(made) - index, **row} for index, row in enumerate(made)]

    def summary(self) -> dict[str, Any]:
        """GET /farm."""
        shown = [self.now_of(job) for job in self.jobs.values() if not job.group]
        counts = {
            name.lower(): sum(job.state == name for job in shown)
            for name in ("WAITING", "PENDING", "WORKING", "FINISHED", "ERROR")
        }
        if self.scene == "huge":
            counts = {"waiting": 187_204, "pending": 1_200, "working": 252, "finished": 11_310, "error": 34}
        if self.scene == "busy":
            counts = {
                key: value + extra for (key, value), extra in zip(counts.items(), (4_812, 96, 240, 21_377, 12), strict=True)
            }
        workers, instances = self.workers(), self.instances()
        live = [worker for worker in workers if worker.state in ("WAITING", "WORKING", "DRAINING")]
        return {
            "now": time.time(),
            "jobs": counts,
            "workers": {
                state: sum(worker.state == state for worker in workers) for state in {worker.state for worker in workers}
            },
            "instances": {
                state: sum(one["state"] == state for one in instances) for state in {one["state"] for one in instances}
            },
            "slots": {"total": sum(worker.slots for worker in live), "busy": sum(worker.running for worker in live)},
            "burn_micro_per_hour": sum(one["price_micro"] for one in instances if one["launched_at"]),
            "currency": CURRENCY,
            "budgets": self.budgets(),
            "scaling": {"enabled": True, "paused": False, "leader": "farm-1"},
        }


# ---------------------------------------------------------------- the application


def create_app(farm: Farm) -> Flask:
    """The API over `farm`, with the page. Nothing of it is stored."""
    app = Flask(__name__, static_folder=None)
    page.register(app)

    @app.before_request
    def check() -> Response | None:
        if not request.path.startswith(API):
            return None
        if farm.away:
            return Response("bad gateway", 502)
        if farm.scene == "token" and request.headers.get("Authorization") != f"Bearer {TOKEN}":
            return Response(
                '{"title": "Not authenticated", "detail": "give a good token"}', 401, mimetype="application/problem+json"
            )
        return None

    @app.errorhandler(404)
    def missing(error: Exception) -> tuple[Response, int]:
        return jsonify(title="Not found", detail=getattr(error, "description", "")), 404

    def route(path: str, answer: Callable[..., Any]) -> None:
        app.add_url_rule(API + path, path, lambda **named: jsonify(to_dict(answer(**named))))

    name = HOSTILE if farm.scene == "hostile" else ("demo farm" if farm.scene != "empty" else "new farm")
    route(
        "/server",
        lambda: {
            "farm": name,
            "version": "1.0",
            "auth": "token" if farm.scene == "token" else "none",
            "user": "",
            "role": "admin",
            "url_schemes": ["http", "https"],
            "pictures_from": [],
        },
    )
    route("/farm", farm.summary)
    route("/jobs", lambda: farm.page(dict(request.args)))
    route("/jobs/<int:job_id>", lambda job_id: farm.job(job_id))
    route("/jobs/<int:job_id>/explain", lambda job_id: {"reasons": farm.explain(farm.job(job_id))})
    route("/jobs/<int:job_id>/attempts", lambda job_id: {"attempts": farm.attempts(farm.job(job_id))})
    route("/workers", lambda: {"workers": some_fields(to_dict(farm.workers(request.args.get("state", ""))))})
    route("/workers/<int:worker_id>", lambda worker_id: farm.worker(worker_id))
    route("/instances", lambda: {"instances": [] if request.args.get("state") else farm.instances()})
    route("/changes", lambda: {"cursor": "now", "changed": ["jobs", "workers", "instances", "money", "decisions"], "poll_s": 0})
    route("/jobs/<int:job_id>/timeline", lambda job_id: {"timeline": []})
    route("/workers/<int:worker_id>/explain", lambda worker_id: {"reasons": []})
    route("/pools", lambda: {"pools": []})
    route("/prices", lambda: {"prices": []})
    route("/budgets", lambda: {"budgets": farm.budgets()})
    route("/events", lambda: {"events": []})
    route("/limits", lambda: {"limits": []})
    route("/affinities", lambda: {"affinities": []})
    route("/cost", lambda: {"entries": farm.costs(request.args.get("group_by", "day"))})
    route("/forecast", farm.forecast)
    route("/history", farm.history)
    route("/audit", lambda: {"audit": []})
    route("/attempts", lambda: {"attempts": []})
    route("/tokens", lambda: {"tokens": []})
    route("/decisions", lambda: {"decisions": farm.decisions()})

    @app.get(f"{API}/jobs/<int:job_id>/log")
    def log(job_id: int) -> Response:
        job = farm.job(job_id)
        content = farm.log(job)
        offset = int(request.args.get("offset", 0))
        start = max(0, len(content) + offset) if offset < 0 else min(offset, len(content))
        response = Response(content[start : start + int(request.args.get("limit", 1 << 20))], mimetype="application/octet-stream")
        facts = {"Attempt": job.attempt, "Size": len(content), "Offset": start, "Open": int(job.state == "WORKING")}
        response.headers.update({f"X-Log-{key}": str(value) for key, value in facts.items()})
        return response

    @app.post(f"{API}/<any(jobs, workers, instances):noun>/<action>")
    def change(noun: str, action: str) -> Response:
        if noun == "jobs":
            return jsonify(changed=farm.change(action, request.get_json()))
        farm.calls.append((f"{noun}/{action}", request.get_json()))
        return jsonify(changed=1)

    return app


if __name__ == "__main__":
    arguments = [*sys.argv[1:], *("lively", "8080")[len(sys.argv) - 1 :]]
    create_app(Farm(arguments[0])).run(port=int(arguments[1]), threaded=True)
