"""What differs between the systems that a worker runs on: Posix (Linux, macOS) and Windows, two faces with the same methods.

What the other modules of a worker call of `os`, `signal` and `select` is on all systems, or asked for first; a test sees to
that. Either face can be made anywhere, and does what its system is not needed for.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:  # who imports this for its locks only needs none
    import psutil

KILL = int(getattr(signal, "SIGKILL", 9))
PYTHON_IGNORES = [number for name in ("SIGPIPE", "SIGXFSZ") if (number := getattr(signal, name, None))]
RSS_UNIT = 1 if sys.platform == "darwin" else 1024  # bytes of the system's unit of memory
RSS_SLACK = (4 << 20) // RSS_UNIT  # Linux counts memory in batches for each processor
Handle = Any  # what a selector takes: a descriptor or a socket


class Source(Protocol):
    """What a helper process says, for a selector."""

    def fileno(self) -> int: ...

    def receive(self) -> bytes | None:
        """What came; None: nothing now, b"": it has ended."""

    def close(self) -> None: ...


class Posix:
    """Runs are process groups of their own, and sessions too where there is a terminal: it is not theirs."""

    keeps_itself = False  # a process of ours must end the runs of an agent that was killed

    def __init__(self) -> None:
        self._null = self._home = -1
        self._nice = 0  # of this process
        self._own_rss = -1  # what a child has until it runs its command, in the system's unit
        self._apart: dict[str, Any] = {"setsid": True}

    # ------------------------------------------------------------ starting

    def shell(self, command: str) -> list[str]:
        return ["/bin/sh", "-c", command]

    def open_log(self, path: str) -> int:
        """For us and for a run, both of which add to its end."""
        return os.open(path, os.O_CREAT | os.O_TRUNC | os.O_RDWR | os.O_APPEND | os.O_CLOEXEC, 0o600)

    def spawn(self, words: list[str] | str, place: str, environment: Mapping[str, str], log: int, umask: int, nice: int) -> int:
        """Starts a run in the folder `place`, empty: in this one, that yields to other work by `nice`. Its process's number."""
        # posix_spawn costs half of what Popen does: no pipe to hear errors through, no search for descriptors to close. It takes
        # neither directory nor umask, so they are this process's own for the moment, and the niceness follows at once.
        assert isinstance(words, list)
        streams = [(os.POSIX_SPAWN_DUP2, fd, number) for number, fd in enumerate((self._null, log, log))]
        given = {"file_actions": streams, "setsigdef": PYTHON_IGNORES, **self._apart}
        with _standing_in(place, self._home), _masked(umask):
            pid = os.posix_spawnp(words[0], words, environment, **given)
        if nice:
            with contextlib.suppress(PermissionError):  # of a template, such as sudo, which is root's by now
                os.setpriority(os.PRIO_PROCESS, pid, min(19, self._nice + nice))
        return pid

    def begin(self) -> None:
        """Call it first. What this process inherited does not go on to what it starts; what Python opens never does."""
        self._null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        self._home = os.open(".", os.O_RDONLY | os.O_CLOEXEC)
        self._nice = os.getpriority(os.PRIO_PROCESS, 0)
        if not _has_terminal():  # a session costs Linux a group for its scheduler: a tenth of a run that does nothing
            self._apart = {"setpgroup": 0}
        for number in map(int, os.listdir("/dev/fd")):
            with contextlib.suppress(OSError):  # the one that read the folder
                os.set_inheritable(number, number <= 2)

    # ------------------------------------------------------------ the end of a run

    def watch(self, pid: int) -> Handle:
        """Becomes readable when the child ends; it is not reaped by that."""
        if hasattr(os, "pidfd_open"):
            with contextlib.suppress(OSError):  # kernels before 5.3
                return os.pidfd_open(pid)
        reading, writing = os.pipe()

        def wait() -> None:
            os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
            os.close(writing)

        threading.Thread(target=wait, daemon=True).start()
        return reading

    def forget(self, watched: Handle) -> None:
        os.close(watched)

    def reap(self, pid: int) -> tuple[int, int]:
        """The exit code of a run that has ended, or its signal below zero, and the most memory it had in bytes; 0: not known."""
        _, status, usage = os.wait4(pid, 0)
        if usage.ru_maxrss > self._own_rss:
            self._own_rss = _own_rss() + RSS_SLACK  # it may have grown
        return os.waitstatus_to_exitcode(status), 0 if usage.ru_maxrss <= self._own_rss else usage.ru_maxrss * RSS_UNIT

    def send(self, run: int, number: int, others: Sequence[psutil.Process]) -> None:
        """Signals the group of a run, and others of its processes."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(run, number)
        _each(others, lambda process: process.send_signal(number))

    def has_group(self, run: int) -> bool:
        """Whether processes are left in the group of a run."""
        try:
            os.killpg(run, 0)
        except ProcessLookupError:
            return False
        except PermissionError:
            pass
        return True

    def group_of(self, pid: int) -> int | None:
        """None for what has ended."""
        try:
            return os.getpgid(pid)
        except ProcessLookupError:
            return None

    # ------------------------------------------------------------ orphans

    def adopt(self) -> int:
        """Adopt the orphans among all descendants of this process (Linux's prctl(2), PR_SET_CHILD_SUBREAPER = 36).

        A descriptor that tells the main thread's children, who adopts them; -1 where there is no such thing.
        """
        try:
            children = os.open(f"/proc/self/task/{os.getpid()}/children", os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return -1
        if ctypes.CDLL(None).prctl(36, 1, 0, 0, 0) == 0:
            return children
        os.close(children)
        return -1

    def reaped(self, pid: int) -> bool:
        """Whether the child has ended; then it is no more."""
        try:
            return os.waitpid(pid, os.WNOHANG)[0] == pid
        except ChildProcessError:
            return True

    # ------------------------------------------------------------ files, pipes, the machine

    def read_at(self, file: int, count: int, offset: int, path: str) -> bytes:
        return os.pread(file, count, offset)

    def lock(self, file: IO[bytes] | int, *, wait: bool = False) -> None:
        """BlockingIOError if another process has it; `wait`: until it has no more. It ends with the file, or the process."""
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))

    def unlock(self, file: IO[bytes] | int) -> None:
        import fcntl

        fcntl.flock(file, fcntl.LOCK_UN)

    def after_fork(self, call: Callable[[], None]) -> None:
        """Calls it in each process that this one is forked into."""
        os.register_at_fork(after_in_child=call)

    @contextlib.contextmanager
    def at_most(self, seconds: float) -> Iterator[None]:
        """TimeoutError when the block takes longer; `re` looks for signals, so even a hopeless pattern ends. Main thread only."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        armed = True

        def late(*_: object) -> None:
            if armed:
                raise TimeoutError

        before = signal.signal(signal.SIGALRM, late)
        timer = signal.setitimer(signal.ITIMER_REAL, seconds)
        try:
            yield
            armed = False
        finally:
            armed = False
            signal.setitimer(signal.ITIMER_REAL, *timer)
            signal.signal(signal.SIGALRM, before or signal.SIG_DFL)

    def source(self, pipe: IO[bytes]) -> Source:
        return _Pipe(pipe)

    def unblock(self, pipe: IO[bytes]) -> None:
        """A write into a full pipe does nothing, and says so."""
        os.set_blocking(pipe.fileno(), False)

    def allow_files(self, count: int) -> None:
        """Room for so many descriptors, if the hard limit has it."""
        import resource

        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        wanted = count if hard == resource.RLIM_INFINITY else min(count, hard)
        if soft != resource.RLIM_INFINITY and soft < wanted:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))

    def keep(self) -> None:
        """Nothing of its own: keeper.py sees to it."""

    def clock_s(self) -> float:
        """Seconds on a clock that nobody sets and that goes on in suspend, where there is one."""
        import time

        return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))

    def close(self) -> None:
        for file in (self._null, self._home):
            if file >= 0:
                os.close(file)
        self._null = self._home = -1


class Windows:
    """Runs are console process groups: Ctrl+Break asks one to end, and psutil ends what does not heed it.

    There are no groups to look for, so the processes of a run are its descendants and whoever carries its mark. A job object ends
    all of them with this process. `flags` are what Popen is told.
    """

    keeps_itself = True
    NEW_GROUP = 0x0000_0200  # CREATE_NEW_PROCESS_GROUP
    YIELDING = 0x0000_4000  # BELOW_NORMAL_PRIORITY_CLASS

    def __init__(self, flags: int = NEW_GROUP) -> None:
        self._flags = flags
        self._children: dict[int, subprocess.Popen[bytes]] = {}
        self._job: Any = None

    # ------------------------------------------------------------ starting

    def shell(self, command: str) -> str:
        """cmd takes all that is between the first and the last quote as it is: /s."""
        return f'{os.environ.get("COMSPEC", "cmd.exe")} /d /s /c "{command}"'

    def open_log(self, path: str) -> int:
        # A run has the same file pointer: who writes moves it for both, so nobody may seek (read_at does not).
        return os.open(path, os.O_CREAT | os.O_TRUNC | os.O_RDWR | os.O_APPEND | getattr(os, "O_BINARY", 0), 0o600)

    def spawn(self, words: list[str] | str, place: str, environment: Mapping[str, str], log: int, umask: int, nice: int) -> int:
        flags = self._flags | (self.YIELDING if nice else 0)
        options: dict[str, Any] = {"cwd": place or None, "env": environment, "creationflags": flags}
        made = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=log, stderr=log, **options)
        self._children[made.pid] = made
        return made.pid

    def begin(self) -> None:
        """Nothing: Popen hands on what it is told to and no more."""

    # ------------------------------------------------------------ the end of a run

    def watch(self, pid: int) -> Handle:
        reading, writing = socket.socketpair()  # of all handles, a selector takes sockets only
        child = self._children[pid]

        def wait() -> None:
            child.wait()
            writing.close()

        threading.Thread(target=wait, daemon=True).start()
        return reading

    def forget(self, watched: Handle) -> None:
        watched.close()

    def reap(self, pid: int) -> tuple[int, int]:
        return self._children.pop(pid).wait(), 0

    def send(self, run: int, number: int, others: Sequence[psutil.Process]) -> None:
        if number != KILL:
            with contextlib.suppress(OSError):
                os.kill(run, getattr(signal, "CTRL_BREAK_EVENT", number))
            return
        if run in self._children:
            self._children[run].kill()
        _each(others, lambda process: process.kill())

    def has_group(self, run: int) -> bool:
        return False

    def group_of(self, pid: int) -> int | None:
        import psutil

        return 0 if psutil.pid_exists(pid) else None

    # ------------------------------------------------------------ orphans

    def adopt(self) -> int:
        return -1

    def reaped(self, pid: int) -> bool:
        import psutil

        return not psutil.pid_exists(pid)

    # ------------------------------------------------------------ files, pipes, the machine

    def read_at(self, file: int, count: int, offset: int, path: str) -> bytes:
        with open(path, "rb") as again:
            again.seek(offset)
            return again.read(count)

    def lock(self, file: IO[bytes] | int, *, wait: bool = False) -> None:
        import msvcrt

        how: Any = msvcrt
        handle = file if isinstance(file, int) else file.fileno()
        while True:
            try:
                return how.locking(handle, how.LK_LOCK if wait else how.LK_NBLCK, 1)  # type: ignore[no-any-return]
            except OSError as error:
                if not wait:  # LK_LOCK gives up after ten tries, a second apart
                    raise BlockingIOError(error.errno, "another process has it") from None

    def unlock(self, file: IO[bytes] | int) -> None:
        import msvcrt

        how: Any = msvcrt
        how.locking(file if isinstance(file, int) else file.fileno(), how.LK_UNLCK, 1)

    def after_fork(self, call: Callable[[], None]) -> None:
        """Nothing: there are no forks."""

    @contextlib.contextmanager
    def at_most(self, seconds: float) -> Iterator[None]:
        """Nothing can end a pattern there: the server has checked it."""
        yield

    def source(self, pipe: IO[bytes]) -> Source:
        return _Pump(pipe)

    def unblock(self, pipe: IO[bytes]) -> None:
        """Nothing: helper processes read all the time."""

    def allow_files(self, count: int) -> None:
        """Nothing: there is no such limit."""

    def keep(self) -> None:
        """Puts this process and all that it starts into a job object that ends them when this process does, however it ends."""
        kernel = ctypes.windll.kernel32  # type: ignore[attr-defined]
        self._job = kernel.CreateJobObjectW(None, None)
        limits = (ctypes.c_byte * 144)()  # JOBOBJECT_EXTENDED_LIMIT_INFORMATION on 64 bits, of which LimitFlags is at 16
        ctypes.c_uint32.from_buffer(limits, 16).value = 0x2000  # JOB_OBJECT_LIMIT_KILL_ON_JOB_CLOSE
        done = self._job and kernel.SetInformationJobObject(self._job, 9, ctypes.byref(limits), 144)
        if not (done and kernel.AssignProcessToJobObject(self._job, kernel.GetCurrentProcess())):
            raise OSError("no job object can be had; if this agent is killed, its jobs run on")

    def clock_s(self) -> float:
        import time

        return time.monotonic()  # which goes on in suspend there

    def close(self) -> None:
        """The job object is the process's, and ends with it."""


class _Pipe:
    """A pipe that a selector takes as it is."""

    def __init__(self, pipe: IO[bytes]) -> None:
        self._pipe = pipe
        os.set_blocking(pipe.fileno(), False)

    def fileno(self) -> int:
        return self._pipe.fileno()

    def receive(self) -> bytes | None:
        try:
            return os.read(self._pipe.fileno(), 65_536)
        except BlockingIOError:
            return None

    def close(self) -> None:
        self._pipe.close()


class _Pump:
    """A pipe whose content a thread puts into a socket, for a selector that takes nothing else."""

    def __init__(self, pipe: IO[bytes]) -> None:
        self._pipe = pipe
        self._reading, self._writing = socket.socketpair()
        self._reading.setblocking(False)
        self._thread = threading.Thread(target=self._carry, daemon=True)
        self._thread.start()

    def _carry(self) -> None:
        with self._writing, contextlib.suppress(OSError, ValueError):  # it is closed on either side
            while data := os.read(self._pipe.fileno(), 65_536):
                self._writing.sendall(data)

    def fileno(self) -> int:
        return self._reading.fileno()

    def receive(self) -> bytes | None:
        try:
            return self._reading.recv(65_536)
        except BlockingIOError:
            return None

    def close(self) -> None:
        """Call it when the process has ended."""
        self._reading.close()
        self._thread.join(5)
        self._pipe.close()


def _each(processes: Sequence[psutil.Process], act: Callable[[psutil.Process], object]) -> None:
    """Those that have ended meanwhile are left out, and those that are not ours."""
    import psutil

    for process in processes:
        with contextlib.suppress(psutil.Error):
            act(process)


def _has_terminal() -> bool:
    """Whether this process's session has a terminal, which its runs could read from and stop at."""
    try:
        os.close(os.open(os.ctermid(), os.O_RDWR | os.O_NOCTTY))
    except OSError:
        return False
    return True


@contextlib.contextmanager
def _standing_in(place: str, home: int) -> Iterator[None]:
    """This process's directory is `place` for the block; empty: where it is. OSError with its name if it cannot be."""
    if not place:
        yield
        return
    os.chdir(place)
    try:
        yield
    finally:
        try:
            os.fchdir(home)
        except OSError:  # it is not there any more; no reason to lose sight of what was just started
            os.chdir(Path(os.sep))


def _own_rss() -> int:
    """The most memory that this process had since it began to run its program, in the system's unit."""
    try:
        with open("/proc/self/status", "rb") as file:  # getrusage(2) tells of who started us, too
            return next(int(line.split()[1]) for line in file if line.startswith(b"VmHWM:"))
    except OSError:
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


@contextlib.contextmanager
def _masked(umask: int) -> Iterator[None]:
    """This process's umask is `umask` for the block."""
    before = os.umask(umask)
    try:
        yield
    finally:
        os.umask(before)


System = Posix | Windows


def of_this_machine() -> System:
    return Windows() if sys.platform == "win32" else Posix()
