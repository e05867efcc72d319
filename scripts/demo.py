"""make demo: a whole farm on this machine, a film rendered on it, and nothing left behind.

Starts a server with the autoscaler on the local provider, submits 48 frames and a job that assembles them, shows what
happens, and waits until the machines are ended. KEEP=1 keeps the server up until Ctrl-C. Run by `make demo` as
`.venv/bin/python -m scripts.demo`. Exit code 0: all frames are there and no process is left; 1: said why; 130: Ctrl-C.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
from rich.console import Console

from coalition.client import Client, LogPiece
from coalition.errors import CoalitionError, ServerUnreachable
from coalition.model import Job, JobSpec
from scripts import renderers
from scripts.demo_view import Status, View, live, look, money, spend_line

ROOT = Path(__file__).resolve().parent.parent
PORT = 19211
FRAMES = 48
WIDTH, HEIGHT = 320, 180
TAG = "demo"
MARK = "FARM_DEMO"  # in the environment of all that the demo starts; a name that nothing on the way takes out
START_LIMIT_S = 60.0
RENDER_LIMIT_S = 900.0
END_LIMIT_S = 90.0
SILENCE_LIMIT_S = 15.0
LOG_TAIL_LINES = 30
Server = subprocess.Popen[bytes]

CONFIG = """\
# A farm for one demo: this machine as a cloud, at a made-up price.
[server]
farm = {farm}
listen = 127.0.0.1:{port}
data_dir = {data_dir}

[worker]
sync = 1s

[autoscaler]
interval = 1s
slot_target = 5s
slack = 15s

[pool local]
provider = local
affinity = {tag}
slots = 1
max = {machines}
idle = 3s
boot_timeout = 60s
funding = 60s
price = 0.36

[budget demo]
amount = 1.00
window = total
hard = yes
"""


class Failed(Exception):
    """The demo cannot go on; the message says why."""


@dataclass(frozen=True)
class Demo:
    """One run: its folder, its mark, its farm's name and port."""

    folder: Path
    farm: str
    port: int

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def pictures(self) -> Path:
        return self.folder / "pictures"

    @property
    def server_log(self) -> Path:
        return self.folder / "server.log"


# ---------------------------------------------------------------- setting up


def free_port(first: int = PORT) -> int:
    """`first` if nobody has it, by TCP and by UDP, else one that the system gives."""
    for port in (first, *[0] * 20):
        with contextlib.suppress(OSError), socket.socket() as tcp, socket.socket(type=socket.SOCK_DGRAM) as udp:
            tcp.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            tcp.bind(("127.0.0.1", port))
            tcp.listen(1)
            got = int(tcp.getsockname()[1])
            udp.bind(("", got))
            return got
    raise Failed(f"port {first} is in use, and the system gives no other one")


def prepare() -> Demo:
    """The run's folder with its cloud.ini."""
    run = secrets.token_hex(4)
    folder = ROOT / "build" / "demo" / f"{time.strftime('%Y%m%d-%H%M%S')}-{run}"
    demo = Demo(folder, f"demo-{run}", free_port())
    demo.pictures.mkdir(parents=True)
    machines = max(2, min(4, os.cpu_count() or 1))
    config = CONFIG.format(farm=demo.farm, port=demo.port, data_dir=folder / "data", tag=TAG, machines=machines)
    (folder / "cloud.ini").write_text(config, encoding="utf-8")
    latest = ROOT / "build" / "demo" / "pictures"
    with contextlib.suppress(OSError):  # only a short name for the newest run's pictures
        latest.unlink(missing_ok=True)
        latest.symlink_to(demo.pictures.relative_to(latest.parent))
    return demo


def job_tree(renderer: renderers.Renderer, pictures: Path) -> JobSpec:
    """The frames, and the film that depends on them all; both inherit the group's affinity, which is the pool's."""
    assemble = [sys.executable, str(renderers.EXAMPLES / "assemble.py"), "frame_%04d.png", f"1-{FRAMES}"]
    frames = JobSpec(
        title="orbits",
        ref="frames",
        frames=f"1-{FRAMES}",
        command=renderer.command(WIDTH, HEIGHT),
        dir=str(pictures),
        retries=1,
        progress_pattern=r"pixels \(%percent%\)",
    )
    film = JobSpec(
        title="film",
        ref="film",
        depends_on=("frames",),
        command=shlex.join(assemble),
        dir=str(pictures),
        progress_pattern="Assembled %percent%",
    )
    return JobSpec(title="demo", group=True, affinity=(TAG,), children=(frames, film))


# ---------------------------------------------------------------- processes


@contextlib.contextmanager
def served(demo: Demo) -> Iterator[Server]:
    """The demo's server. At the end it and everything that it started is ended, whatever happened.

    Failed when all went well but something was left to be ended: the farm has to end its machines by itself.
    """
    environment = {key: value for key, value in os.environ.items() if not key.startswith("COALITION_")}
    command = [str(Path(sys.executable).parent / "coalition"), "serve", "--config", str(demo.folder / "cloud.ini")]
    with demo.server_log.open("wb") as log:
        server = subprocess.Popen(
            command,
            cwd=demo.folder,
            env={**environment, MARK: demo.farm},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        yield server
    finally:
        with uninterrupted():
            stop(server)
            left = lingering(demo)
            end(left)
    if left:
        raise Failed(f"{len(left)} processes outlived the farm and had to be ended: {', '.join(str(one.pid) for one in left)}")


@contextlib.contextmanager
def uninterrupted() -> Iterator[None]:
    """Signals wait: a second Ctrl-C must not leave half of the processes."""
    signals = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.signal(number, signal.SIG_IGN) for number in signals}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def stop(server: Server, limit_s: float = 15.0) -> None:
    if server.poll() is None:
        server.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            server.wait(limit_s)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(server.pid, signal.SIGKILL)  # its own session: nobody else's processes are in it
    server.wait()


def remaining(demo: Demo) -> list[psutil.Process]:
    """Processes of this demo that run, by the mark in their environment, wherever they went."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if process.status() == psutil.STATUS_ZOMBIE or process.pid == os.getpid():
                continue
            if process.environ().get(MARK) == demo.farm:
                found.append(process)
    return found


def lingering(demo: Demo, limit_s: float = 5.0) -> list[psutil.Process]:
    """What still runs when the farm is down; what is about to end is given the time to."""
    until = time.monotonic() + limit_s
    while (left := remaining(demo)) and time.monotonic() < until:
        psutil.wait_procs(left, timeout=0.2)
    return left


def end(processes: list[psutil.Process]) -> None:
    for act in (psutil.Process.terminate, psutil.Process.kill):
        for process in processes:
            with contextlib.suppress(psutil.Error):
                act(process)
        processes = psutil.wait_procs(processes, timeout=5)[1]


# ---------------------------------------------------------------- following it


def healthy(client: Client, server: Server) -> None:
    """Waits until the server answers."""
    until = time.monotonic() + START_LIMIT_S
    while True:
        try:
            client.info()
            return
        except ServerUnreachable as error:
            must_run(server)
            if time.monotonic() > until:
                raise Failed(f"the server did not answer within {START_LIMIT_S:.0f} s: {error}") from None
        time.sleep(0.1)


def follow(view: View, status: Callable[[], Status], over: Callable[[Status], bool], server: Server, limit_s: float) -> Status:
    """Shows the status until `over` says so; Failed when the server ends, is silent for long, or after `limit_s`."""
    until = time.monotonic() + limit_s
    heard = time.monotonic()
    while True:
        try:
            now = status()
            heard = time.monotonic()
        except ServerUnreachable as error:
            must_run(server)
            if time.monotonic() > heard + SILENCE_LIMIT_S:
                raise Failed(f"the server is silent: {error}") from None
        else:
            view.show(now)
            if over(now):
                return now
            if time.monotonic() > until:
                raise Failed(f"not done after {limit_s:.0f} s: {spend_line(now)}; last decision: {now.decision}")
        time.sleep(0.25)


def must_run(server: Server) -> None:
    if server.poll() is not None:
        raise Failed(f"the server ended, with exit code {server.returncode}")


def settled(status: Status) -> bool:
    return status.film.state in ("FINISHED", "ERROR") or status.frames.state == "ERROR"


def tail_of_failure(client: Client, status: Status) -> str:
    """The log of the first job that failed."""
    failed: Job | None = next(client.jobs(parent=status.frames.id, state="ERROR", limit=1), None)
    failed = failed or (status.film if status.film.state == "ERROR" else None)
    if failed is None:
        return "no job tells why"
    piece: LogPiece = client.log(failed.id, offset=-4_000)
    return f"{failed.title}: {failed.reason}\n{piece.data.decode(errors='replace')}"


def summary(client: Client, demo: Demo, status: Status, wall_s: float, farm_s: float) -> list[str]:
    """What it took, from the API."""
    entries = client.ledger(group_by="pool")
    currency = entries[0]["currency"] if entries else "USD"
    machine_s = sum(float(entry["seconds"]) for entry in entries)
    amounts = {name: sum(int(entry[f"{name}_micro"]) for entry in entries) for name in ("amount", "run", "boot", "idle")}
    shares = ", ".join(f"{name} {money(amounts[name], currency)}" for name in ("run", "boot", "idle"))
    return [
        f"Frames        {status.counts[0]} of {status.counts[2]}, {status.frames.run_s:.0f} s of rendering",
        f"Wall time     {wall_s:.0f} s from submission to film; {farm_s:.0f} s until the last machine was ended",
        f"Machine time  {machine_s:.0f} s on {len(status.instances)} machines",
        f"Cost          {money(amounts['amount'], currency)} ({shares}); budget: {spend_line(status)}",
        f"Film          {demo.pictures / 'film.gif'}",
        f"Strip         {demo.pictures / 'strip.png'}",
        f"Frames in     {demo.pictures}",
    ]


def render(demo: Demo, renderer: renderers.Renderer, server: Server, console: Console) -> None:
    """Submits the film, shows its making, and prints what it took."""
    client = Client(demo.url)
    healthy(client, server)
    console.print(f"Page: {demo.url}", highlight=False)
    started = time.monotonic()
    refs = client.submit_many([job_tree(renderer, demo.pictures)]).refs

    def status() -> Status:
        return look(client, refs["frames"], refs["film"], started)

    with View(console, demo.url) as view:
        now = follow(view, status, settled, server, RENDER_LIMIT_S)
        if now.film.state != "FINISHED":
            raise Failed(f"a job failed: {tail_of_failure(client, now)}")
        wall_s = time.monotonic() - started
        now = follow(view, status, lambda it: not live(it.instances), server, END_LIMIT_S)
    for line in summary(client, demo, now, wall_s, time.monotonic() - started):
        console.print(line, soft_wrap=True, markup=False, highlight=False)
    for name in ("film.gif", "strip.png"):
        if not (demo.pictures / name).is_file():
            raise Failed(f"{name} is not there, though its job is finished")


def keep(demo: Demo, server: Server, console: Console) -> None:
    console.print(f"The server stays at {demo.url}; Ctrl-C ends it.", highlight=False)
    with contextlib.suppress(KeyboardInterrupt):
        server.wait()
        must_run(server)


def run(demo: Demo, console: Console) -> None:
    renderer, trouble = renderers.choose()
    reason = f" (POV-Ray: {trouble})" if trouble else ""
    console.print(f"Renderer: {renderer.name}{reason}", soft_wrap=True, markup=False, highlight=False)
    if demo.port != PORT:
        console.print(f"Port {PORT} is in use; the demo takes {demo.port}.", highlight=False)
    with served(demo) as server:
        render(demo, renderer, server, console)
        if os.environ.get("KEEP", "") not in ("", "0"):
            keep(demo, server, console)


def tail(path: Path) -> str:
    """The last lines of a log."""
    with contextlib.suppress(OSError):
        return "\n".join(path.read_text(errors="replace").splitlines()[-LOG_TAIL_LINES:])
    return ""


def main() -> int:
    console = Console()
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)  # as Ctrl-C: clean up, then end
    demo = None
    try:
        demo = prepare()
        run(demo, console)
    except KeyboardInterrupt:
        print("make demo: stopped; everything that it started was ended", file=sys.stderr)
        return 130
    except (Failed, CoalitionError, OSError) as error:
        if demo and (log := tail(demo.server_log)):
            print(f"--- the end of {demo.server_log}\n{log}\n---", file=sys.stderr)
        print(f"make demo: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
