"""Several calls to providers at the same time: each waits for its own answer and its provider's rate, not for the others."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed, wait
from typing import Generic, NamedTuple, TypeVar

THREADS = 32  # two calls a second that take a quarter of a minute each keep so many busy

K = TypeVar("K")
T = TypeVar("T")


class Task(NamedTuple, Generic[K, T]):
    """A call, and whose it is. One that is not `concurrent` is made by the caller's own thread, in its turn."""

    key: K
    call: Callable[[], T]
    concurrent: bool


class Crew:
    """The threads are made when they are first needed and kept: so is what an SDK makes for each of them."""

    def __init__(self, threads: int = THREADS) -> None:
        self.threads = threads
        self._pool: ThreadPoolExecutor | None = None

    def run(self, tasks: Sequence[Task[K, T]], then: Callable[[K, T], None]) -> None:
        """Makes all calls, and hands each answer to `then`, in this thread, as it comes.

        A call that raises keeps no other's answer from `then`; its error is raised at the end, the first of several. When `then`
        raises, so does this: calls that have not begun never will, and those that have are waited for.
        """
        several = sum(task.concurrent for task in tasks) > 1
        futures = {self._submit(task.call): task.key for task in tasks if several and task.concurrent}
        failed: list[Exception] = []
        try:
            for task in tasks:
                if not (several and task.concurrent):
                    self._hand(task.key, task.call, then, failed)
            for future in as_completed(futures):
                self._hand(futures[future], future.result, then, failed)
            if failed:
                raise failed[0]
        finally:
            for future in futures:
                future.cancel()
            wait(futures)

    @staticmethod
    def _hand(key: K, call: Callable[[], T], then: Callable[[K, T], None], failed: list[Exception]) -> None:
        try:
            answer = call()
        except Exception as error:  # noqa: BLE001 - it is raised when the others have been heard
            failed.append(error)
        else:
            then(key, answer)

    def _submit(self, call: Callable[[], T]) -> Future[T]:
        if self._pool is None:
            self._pool = ThreadPoolExecutor(self.threads, "provider")
        return self._pool.submit(call)

    def close(self) -> None:
        """Ends the threads."""
        if self._pool is not None:
            self._pool.shutdown()
            self._pool = None
