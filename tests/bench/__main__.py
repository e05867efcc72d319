"""make bench: prints each figure with its limit beside it. Figures never fail a test; the machine is shared and noisy.

python -m tests.bench [--quick] [--json] [dispatch|end-to-end|submit ...]
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import psutil

from autoscaler.decide import decide
from autoscaler.simulate import default_settings, simulate
from autoscaler.snapshot import take
from coalition.client import Client
from tests.bench.browser import Tab, first_load_bytes, tab
from tests.bench.clouds import ec2_here, fill, import_s, launch_many, launch_several, list_s
from tests.bench.farm import Rate, dispatch, enrol, idle, memory, server
from tests.bench.figures import Figure
from tests.bench.logs import MB, disk, read_ms, write, write_lines
from tests.bench.old import cycles
from tests.bench.pages import crowd
from tests.bench.scaling import GRID, on_the_grid
from tests.bench.tick import a_fleet, filled, large
from tests.bench.traces import TRACES, market
from tests.certificates import Authority
from tests.databases import SERVERS
from tests.fakes.server import HandWorker
from tests.polling import poll_until

ROW = 30  # pixels, in a list of the page
CONNECTIONS = 32
TURNS = 3  # of what is set side by side on a noisy machine


def bench_dispatch(folder: Path, quick: bool) -> Iterator[Figure]:
    """(a) one-slot workers at 1,000 and 100,000 waiting, (b) 32-slot workers: one sync per job or batch, over HTTP."""
    jobs = 2_000 if quick else 10_000
    with server(folder) as address:
        client = Client(address, timeout_s=300)
        small = _at_backlog(client, address, 1_000, jobs)
        yield _rate("dispatch, one slot, 1,000 waiting", small, "1,500 jobs/s")
        large = _at_backlog(client, address, 100_000, jobs)
        yield _rate("dispatch, one slot, 100,000 waiting", large, "1,500 jobs/s")
        yield Figure("  100,000 against 1,000 waiting", large.per_s / small.per_s, "x", "0.85 or more")
        if not quick:
            huge = _at_backlog(client, address, 1_000_000, jobs)
            yield _rate("dispatch, one slot, 1,000,000 waiting", huge, "1,500 jobs/s")
            yield Figure("  1,000,000 against 1,000 waiting", huge.per_s / small.per_s, "x", "0.85 or more")
        client.submit(title="wide", command="true", frames=f"1-{jobs * 10}")
        yield _rate("dispatch, 32 slots", dispatch(address, CONNECTIONS, 32, jobs * 10), "10,000 jobs/s")


def bench_https(folder: Path, quick: bool) -> Iterator[Figure]:
    """50 workers of one slot that sync over https on kept connections, beside the same over http; the server's CPU for a job."""
    jobs = 1_000 if quick else 5_000
    folder.mkdir(parents=True, exist_ok=True)
    authority = Authority(folder)
    certificate, key = authority.certificate("server", "127.0.0.1")
    rates: list[float] = []
    for ca, knobs in ((None, {}), (authority.file, {"tls_cert": str(certificate), "tls_key": str(key)})):
        name = "https" if ca else "http"
        with server(folder / name, ca=ca, **knobs) as address:
            Client(address, ca=ca, timeout_s=300).submit(title=name, command="true", frames=f"1-{jobs + 128}")
            before = _cpu_s()
            rate = dispatch(address, 50, 1, jobs, ca)
            used = f"{(_cpu_s() - before) / rate.jobs * 1e6:.0f} us of the server's CPU a job"
        rates.append(rate.per_s)
        figure = _rate(f"dispatch, {name}, 50 workers of one slot", rate, "beside the other")
        yield replace(figure, note=f"{figure.note}; {used}")
    yield Figure("  https against http", rates[1] / rates[0], "x", "0.25 or more")


def bench_databases(folder: Path, quick: bool) -> Iterator[Figure]:
    """The same on MariaDB and PostgreSQL, with two server processes; both wait for the disk at each commit, as by default."""
    jobs = 2_000 if quick else 10_000
    for kind, make in SERVERS.items():
        database = make(durable=True)
        try:
            with server(folder / kind, processes="2", database=database.take()) as address:
                client = Client(address, timeout_s=120)
                for slots, count, aim in ((1, jobs, "1,000 jobs/s"), (32, jobs * 5, "5,000 jobs/s")):
                    client.submit(title=f"{slots} slots", command="true", frames=f"1-{count + 64 * slots}")
                    before = _cpu_s()
                    rate = dispatch(address, CONNECTIONS, slots, count)
                    used = f"{(_cpu_s() - before) / rate.jobs * 1e6:.0f} us of CPU a job"
                    figure = _rate(f"dispatch, {kind}, 2 processes, {slots} slot{'s' * (slots > 1)}", rate, aim)
                    yield replace(figure, note=f"{figure.note}; {used}, server and database")
        finally:
            database.close()


def _cpu_s() -> float:
    """What the processes below this one have used of the CPUs."""
    times = [process.cpu_times() for process in psutil.Process().children(recursive=True)]
    return sum(one.user + one.system for one in times)


def _at_backlog(client: Client, address: str, waiting: int, jobs: int) -> Rate:
    """The rate while `waiting` jobs stay in the queue behind those that are dispatched."""
    counts = client.farm()["jobs"]
    missing = waiting + jobs - counts["waiting"]
    if missing > 0:
        client.submit(title=f"backlog {waiting}", command="true", frames=f"1-{missing}")
    return dispatch(address, CONNECTIONS, 1, jobs)


def _rate(what: str, rate: Rate, limit: str) -> Figure:
    return Figure(what, rate.per_s, "jobs/s", limit, f"p50 {rate.p50_ms:.1f} ms, p99 {rate.p99_ms:.1f} ms")


def bench_end_to_end(folder: Path, quick: bool) -> Iterator[Figure]:
    """(c) no-op shell jobs with captured logs on a real worker with two slots, and xargs, in turns: the median of the turns."""
    jobs = 1_000 if quick else 5_000
    peers, ours = [], []
    with server(folder) as address, _worker(folder, address):
        client = Client(address, timeout_s=300)
        client.wait([client.submit(title="warm", command="true", frames="1-200")])
        for _ in range(TURNS):
            peers.append(_xargs(jobs))
            begun = time.perf_counter()
            client.wait([client.submit(title="no-op", command="true", frames=f"1-{jobs}")])
            ours.append(jobs / (time.perf_counter() - begun))
    yield Figure("xargs -P2 sh -c true", median(peers), "jobs/s", "the peer", _all(peers))
    yield Figure("end to end, two slots, logs kept", median(ours), "jobs/s", "0.7 of xargs", _all(ours))
    yield Figure("  against xargs", median(own / peer for own, peer in zip(ours, peers, strict=True)), "x", "0.7 or more")


def _all(rates: list[float]) -> str:
    return "each turn: " + ", ".join(f"{rate:,.0f}" for rate in rates)


def _xargs(jobs: int) -> float:
    numbers = "\n".join(map(str, range(jobs))).encode()
    begun = time.perf_counter()
    subprocess.run(["xargs", "-P2", "-n1", "sh", "-c", "true"], input=numbers, check=True)
    return jobs / (time.perf_counter() - begun)


@contextmanager
def _worker(folder: Path, address: str) -> Iterator[None]:
    command = [
        sys.executable,
        "-m",
        "coalition",
        "--server",
        address,
        "worker",
        "--slots",
        "2",
        "--state-dir",
        str(folder / "worker"),
    ]
    with (folder / "worker.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
        try:
            yield
        finally:
            process.terminate()
            process.wait(timeout=20)


def bench_submit(folder: Path, quick: bool) -> Iterator[Figure]:
    """(d) 100,000 frames in one call, and a list of 100,000 different jobs."""
    count = 10_000 if quick else 100_000
    with server(folder) as address:
        client = Client(address, timeout_s=120)
        begun = time.perf_counter()
        client.submit(title="frames", command="render {frame:06d}", frames=f"1-{count}")
        yield Figure(f"submit {count:,} frames", time.perf_counter() - begun, "s", "2 s")
        begun = time.perf_counter()
        client.submit_many([{"title": f"job {n}", "command": f"render {n}"} for n in range(count)])
        yield Figure(f"submit a list of {count:,}", time.perf_counter() - begun, "s", "5 s")


def bench_list(folder: Path, quick: bool) -> Iterator[Figure]:
    """First pages of a million jobs over HTTP, with counts: half of them loose at the top, half in one group."""
    count = 50_000 if quick else 500_000
    with server(folder) as address:
        client = Client(address, timeout_s=300)
        group = _submit_all(client, count)
        times = sorted(_page_ms(client, parent, sort, fields) for parent in (0, group) for sort in ORDERS for fields in FILTERS)
        yield Figure(
            f"first page of {2 * count:,}, p95",
            times[int(len(times) * 0.95)],
            "ms",
            "50 ms",
            f"median {times[len(times) // 2]:.0f} ms",
        )
        yield Figure(f"memory of the server with {2 * count:,}", memory() / 1e6, "MB", "300 MB")


def _submit_all(client: Client, count: int) -> int:
    """`count` frames in a group, whose id it returns, and as many loose jobs of seven users and fifty priorities."""
    group = client.submit(title="frames", command="render {frame}", frames=f"1-{count}", user="ann")
    for first in range(0, count, 50_000):
        jobs = [
            {"title": f"job {n}", "command": "true", "user": f"u{n % 7}", "priority": 100 + n % 50}
            for n in range(first, first + 50_000)
        ]
        client.submit_many(jobs)
    return group


def bench_explain(folder: Path, quick: bool) -> Iterator[Figure]:
    """Why jobs, a group and workers wait, over HTTP: among a million jobs and 1,000 workers, nine in ten of them busy."""
    count, fleet = (50_000, 100) if quick else (500_000, 1_000)
    with server(folder, lease="2h") as address:
        client = Client(address, timeout_s=300)
        group = _submit_all(client, count)
        lost = client.submit(title="nobody's", command="true", frames="1-1000", affinity=["gpu"])
        workers = [_once(address, number, busy=number % 10 > 0) for number in range(fleet)]
        asked: dict[str, list[Callable[[], object]]] = {
            "a job": [partial(client.explain, group + 1 + n * (count // 50)) for n in range(100)],
            "a group": [partial(client.explain, one) for one in (group, lost) * 25],
            "a worker": [partial(client.explain_worker, one) for one in workers[:: fleet // 50]],
        }
        for what, questions in asked.items():
            times = sorted(_ms(question) for question in questions)
            p50, p95 = times[len(times) // 2], times[int(len(times) * 0.95)]
            note = f"p50 {p50:.0f} ms, longest {times[-1]:.0f} ms"
            yield Figure(f"explain {what}, p95", p95, "ms", "50 ms", f"{note}; {2 * count:,} jobs, {fleet:,} workers")


def _once(address: str, number: int, busy: bool) -> int:
    """A worker that enrols and, if it is to be busy, takes 8 jobs; its id. It never calls again."""
    worker = enrol(address, f"sim-{number}", 8)
    if busy:
        worker.send()
        while worker.receive() is None:
            pass
    worker.socket.close()
    return worker.worker


ORDERS = ("id", "-id", "priority", "-priority", "title", "-title")
FILTERS: tuple[dict[str, Any], ...] = (
    {},
    {"state": "WAITING"},
    {"state": "ERROR"},
    {"user": "u3"},
    {"title": "999"},
    {"paused": True},
)


def _page_ms(client: Client, parent: int, sort: str, fields: dict[str, Any]) -> float:
    return _ms(partial(client.page, parent=parent, sort=sort, **fields))


def _ms(question: Callable[[], object]) -> float:
    begun = time.perf_counter()
    question()
    return (time.perf_counter() - begun) * 1e3


def bench_tree(folder: Path, quick: bool) -> Iterator[Figure]:
    """Actions on 100,000 jobs over HTTP: a range as one group, and as many loose jobs named one by one, or by a filter."""
    count = 10_000 if quick else 100_000
    with server(folder) as address:
        client = Client(address, timeout_s=300)
        group = client.submit(title="frames", command="render {frame}", frames=f"1-{count}")
        loose = client.submit_many([{"title": f"job {n}", "command": "true"} for n in range(count)]).ids
        into = client.submit(title="into", group=True, affinity=["linux"])
        for what, jobs in (("a group of", group), ("a list of", loose)):
            for action, act in ACTIONS.items():
                begun = time.perf_counter()
                act(client, jobs, into)
                yield Figure(f"{action} {what} {count:,}", time.perf_counter() - begun, "s", "2 s")
    with server(folder / "filter") as address:
        client = Client(address, timeout_s=300)
        client.submit(title="frames", command="render {frame}", frames=f"1-{count}")
        for action, act_on in BY_FILTER.items():
            begun = time.perf_counter()
            done = act_on(client, "frames group:no")
            yield Figure(f"{action} {int(done):,} by filter", time.perf_counter() - begun, "s", "2 s")
        yield Figure("memory of the server after these", memory() / 1e6, "MB", "300 MB")


def bench_idle(folder: Path, quick: bool) -> Iterator[Figure]:
    """10,000 workers that sync every 10 s and find nothing to do, heartbeats written."""
    count = 1_000 if quick else 10_000
    with server(folder) as address:
        cores = idle(address, count, 10.0, 20.0)
        yield Figure(f"{count:,} idle workers, sync every 10 s", cores, "cores", "0.5")


ACTIONS: dict[str, Callable[[Client, Any, int], object]] = {
    "pause": lambda client, jobs, into: client.pause(jobs),
    "start": lambda client, jobs, into: client.start(jobs),
    "priority of": lambda client, jobs, into: client.edit(jobs, priority=200),
    "affinity of": lambda client, jobs, into: client.edit(jobs, affinity=["linux", "24gb"]),
    "move": lambda client, jobs, into: client.move(jobs, into),
    "reset": lambda client, jobs, into: client.reset(jobs),
    "delete": lambda client, jobs, into: client.delete(jobs),
}


BY_FILTER: dict[str, Callable[[Client, str], int]] = {
    "rehearse pause of": lambda client, text: client.pause(filter=text, dry_run=True),
    "pause": lambda client, text: client.pause(filter=text),
    "rehearse delete of": lambda client, text: client.delete(filter=text, dry_run=True),
    "delete": lambda client, text: client.delete(filter=text),
}


def bench_pages(folder: Path, quick: bool) -> Iterator[Figure]:
    """200 open pages and 500 workers with jobs of 10 s on one server: what a call takes that does not wait for a change."""
    pages, workers = (20, 50) if quick else (200, 500)
    with server(folder, lease="120s") as address:
        client = Client(address, timeout_s=300)
        _submit_all(client, 50_000)
        begun, used = time.perf_counter(), _cpu_s()
        times = crowd(address, pages, workers, 10.0, 10.0 if quick else 30.0)
        cores = (_cpu_s() - used) / (time.perf_counter() - begun)
        yield Figure(f"the server, {pages} pages, {workers} workers", cores, "cores", "1")
        for what, some in (("a list", times.lists), ("changes", times.changes), ("a sync", times.syncs), ("a call", times.all())):
            order = sorted(some)
            p50, p99 = order[len(order) // 2] * 1e3, order[int(len(order) * 0.99)] * 1e3
            note = f"p50 {p50:.1f} ms, longest {order[-1] * 1e3:.0f} ms, {len(order):,} calls"
            yield Figure(f"{what}, {pages} pages, {workers} workers, p99", p99, "ms", "100 ms", note)


def bench_browser(folder: Path, quick: bool) -> Iterator[Figure]:
    """The web page in a browser: 1,000,000 jobs in groups of 100,000, 2,000 workers, 500 instances, a log of 1 GB."""
    groups, each, workers, machines, megabytes = (3, 10_000, 200, 50, 32) if quick else (10, 100_000, 2_000, 500, 1_024)
    a_fleet(folder / "data", machines)
    with server(folder, log_max="2G") as address:
        client = Client(address, timeout_s=300)
        connection = enrol(address, "bench-0", 1).socket
        for number in range(1, workers - machines):
            enrol(address, f"bench-{number}", 1, connection)
        logged = client.submit(title="talkative", command="x", affinity=("talk",))
        talker = HandWorker(address, "talker", affinity=[["talk"]])
        write_lines(talker, poll_until(talker.take)[0]["attempt"], megabytes)
        ids = [client.submit(title=f"shot {n}", command="render {frame}", frames=f"1-{each}") for n in range(groups)]
        with tab(address) as page:
            yield from _seen(page, ids[-1], each, logged, 100 if quick else 600)
    yield Figure("page: script of the first load, packed", first_load_bytes() / 1024, "KB", "60 KB")


def _seen(page: Tab, group: int, each: int, logged: int, frames: int) -> Iterator[Figure]:
    """What a browser sees of it."""
    views = {
        "the farm": ("", ".jobs-grid [data-job]"),
        "all jobs": ("?view=jobs", "[data-job]"),
        f"a group of {each:,}": (f"?view=jobs&parent={group}", "[data-job]"),
        "the workers": ("?view=workers", "[data-worker]"),
        "the instances": ("?view=cloud", ".instances [role='row'] .title"),
        "the log at its end": (f"?view=log&job={logged}", ".log-line"),
    }
    page.first_ms("", "main")  # Chromium itself is loaded
    for what, (place, shown) in views.items():
        yield Figure(f"page: first view of {what}", min(page.first_ms(place, shown) for _ in range(3)), "ms", "1,000 ms")
    taken = []
    for what, grid, rows in (
        (f"a group of {each:,}", ".jobs-grid", "[data-job]"),
        ("the workers", ".workers-grid", "[data-worker]"),
    ):
        page.show(*views[what])
        seen = page.scroll(grid, rows, frames)
        taken.append(page.memory())
        yield Figure(f"page: frames a second, {what}", seen.frames_per_s, "1/s", "60 1/s", f"{seen.rows} rows drawn")
        yield Figure(f"page: longest task, {what}", seen.longest_ms, "ms", "100 ms", f"{seen.computing_ms:.0f} ms of computing")
    page.show(*views[f"a group of {each:,}"])
    leap = page.leap_ms(".jobs-grid", each // 2 * ROW, f"[data-job='{group + each // 2 + 5}']")
    yield Figure("page: leap to the middle of that group", leap, "ms", "1,000 ms")
    page.to_the_end(".jobs-grid", f"[data-job='{group + each}']")
    taken.append(page.memory())
    heap, most = max(taken, key=lambda one: one[1])
    yield Figure("page: memory of the tab, at most", most / 1e6, "MB", "200 MB", f"of it {heap / 1e6:.0f} MB of scripts")
    page.collect()
    yield Figure("page: memory of the tab, collected", page.memory()[1] / 1e6, "MB", "200 MB", "Chromium collects when it rests")


def bench_legacy(folder: Path, quick: bool) -> Iterator[Figure]:
    """The predecessor's workers: pick and end, two calls a job, with 100,000 jobs waiting. It made 43 such cycles a second."""
    jobs = 1_000 if quick else 5_000
    with server(folder, legacy="yes") as address:
        Client(address, timeout_s=300).submit(title="backlog", command="true", frames=f"1-{100_000 + jobs}")
        for connections in (1, CONNECTIONS):
            rate = cycles(address, connections, jobs if connections > 1 else jobs // 5)
            yield _rate(f"old pick and end, {connections} workers, 100,000 waiting", rate, "860 jobs/s, 20 x the predecessor")


def bench_clouds(folder: Path, quick: bool) -> Iterator[Figure]:
    """Launching 200 machines and listing 2,000 on a stand-in for EC2 in another process; what the contract's import costs."""
    bare, full = import_s("pass"), import_s("import providers.base")
    yield Figure("import providers.base, over bare Python", (full - bare) * 1e3, "ms", "30 ms")
    with ec2_here() as cloud:
        calls, seconds = launch_many(cloud, 20 if quick else 200)
        yield Figure("launch of 200 machines planned at once", calls, "calls", "1", f"{seconds:.1f} s, nearly all of it moto's")
        offers = 10 if quick else 20
        calls, seconds, least_s = launch_several(cloud, offers * 10, offers)
        note = f"{calls} calls, each answered after 5 s; one by one they take {5 * offers} s"
        what = f"launch of {offers * 10} machines over {offers} offers"
        yield Figure(what, seconds, "s", f"the rate allows {least_s:.1f} s", note)
        count = 200 if quick else 2_000
        fill(cloud, count)
        seconds, ours, theirs = list_s(cloud, count)
        note = f"{ours:.1f} s of work are ours, {theirs:.1f} s moto's; the rest is other work on the machine"
        yield Figure(f"list of {count:,} machines", seconds, "s", "5 s", note)


def bench_decide(_folder: Path, _quick: bool) -> Iterator[Figure]:
    """One decision of the autoscaler: 100,000 jobs in 200 requirement sets, 2,000 instances, 1,500 offers."""
    snapshot = large()
    times = []
    for _ in range(5):
        begun = time.perf_counter()
        plan = decide(snapshot)
        times.append((time.perf_counter() - begun) * 1e3)
    note = f"the best of {len(times)}; {sum(one.count for one in plan.launches):,} machines asked for"
    yield Figure("decide(), 100,000 jobs, 1,500 offers", min(times), "ms", "150 ms", note)


def bench_log(folder: Path, quick: bool) -> Iterator[Figure]:
    """A log of 1 GB and more over the API's routes: how fast, and what the server's memory and disk hold of it."""
    sent = 160 if quick else 1_088
    for kept in (64, 128 if quick else 1_024):
        with server(folder / f"{kept}", lease="2h", log_max=f"{kept}M") as address:
            client, hand = Client(address, timeout_s=60), HandWorker(address)
            job = client.submit(title="talkative", command="x")
            attempt = hand.take()[0]["attempt"]
            hand.write(attempt, b"")
            done = write(hand, attempt, sent, memory)
            piece = client.log(job, offset=-1)
            what = f"a log of {sent:,} MB, log_max {kept:,} MB"
            note = f"kept {done.sizes[-1] / MB:,.0f} MB, cut at byte {piece.cut or 0:,}"
            yield Figure(f"{what}: written", sent / done.seconds, "MB/s", "a worker's share", note)
            yield Figure("  the server's memory grew by", done.grew_bytes / MB, "MB", "32 MB, whatever the log")
            yield Figure("  on its disk", disk(folder / f"{kept}" / "data" / "logs") / MB, "MB", f"{kept:,} MB and a line")
            for name, p95 in read_ms(client, job, piece.size):
                yield Figure(f"  read {name}, p95", p95, "ms", "20 ms")


def bench_scaling(_folder: Path, quick: bool) -> Iterator[Figure]:
    """The simulated autoscaler on made-up traces, and on the LCG grid log and EC2's prices where COALITION_TRACES has them."""
    for name, trace in TRACES.items():
        report = simulate(trace.jobs(0), default_settings(), market()).to_dict()
        launches = report["launches_per_busy_instance_hour"]
        note = f"waits p95 {report['wait_p95_s']:,.0f} s; {launches:.2f} launches per busy instance-hour"
        yield Figure(f"cost over bound, {name}", report["cost_over_bound"], "x", "1.25", note)
    folder = Path(os.environ.get("COALITION_TRACES", "../shared/data"))
    if (folder / GRID).is_file():
        yield from on_the_grid(folder, 1 if quick else 10)


def bench_tick(folder: Path, quick: bool) -> Iterator[Figure]:
    """One tick with its queries: as many jobs, sets, instances and offers as for decide(), in a database."""
    with filled(folder, 10_000 if quick else 100_000) as (store, pools):
        times = []
        for _ in range(3):
            begun = time.perf_counter()
            plan = decide(take(store, pools, store.clock(), 0.0))
            times.append(time.perf_counter() - begun)
    note = f"the best of {len(times)}; {sum(one.count for one in plan.launches):,} machines asked for"
    yield Figure("snapshot and decide(), in a database", min(times), "s", "1 s", note)


BENCHES: dict[str, Callable[[Path, bool], Iterator[Figure]]] = {
    "dispatch": bench_dispatch,
    "clouds": bench_clouds,
    "https": bench_https,
    "databases": bench_databases,
    "end-to-end": bench_end_to_end,
    "submit": bench_submit,
    "list": bench_list,
    "tree": bench_tree,
    "idle": bench_idle,
    "explain": bench_explain,
    "legacy": bench_legacy,
    "decide": bench_decide,
    "tick": bench_tick,
    "scaling": bench_scaling,
    "pages": bench_pages,
    "browser": bench_browser,
    "log": bench_log,
}


def main() -> None:
    """Runs the benchmarks named, or all."""
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("names", nargs="*", choices=[*BENCHES, []], help="which; default: all")
    parser.add_argument("--quick", action="store_true", help="a tenth of the work")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    figures: list[Figure] = []
    for name in given.names or BENCHES:
        with tempfile.TemporaryDirectory(prefix="coalition-bench-") as folder:
            for figure in BENCHES[name](Path(folder), given.quick):
                figures.append(figure)
                if not given.json:
                    print(
                        f"{figure.what:44} {figure.value:10,.2f} {figure.unit:7} limit: {figure.limit}  {figure.note}", flush=True
                    )
    if given.json:
        load = os.getloadavg()[0]
        print(json.dumps({"cpus": os.cpu_count(), "load": load, "figures": [asdict(figure) for figure in figures]}))


if __name__ == "__main__":
    main()
