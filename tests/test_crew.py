"""Calls at the same time: whose thread makes them, in which order, and what becomes of the others when one fails."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest

from autoscaler.crew import Crew, Task
from tests.polling import poll_until


@pytest.fixture
def crew() -> Iterator[Crew]:
    crew = Crew(8)
    yield crew
    crew.close()


def test_calls_are_under_way_together_and_their_answers_come_to_the_callers_thread(crew: Crew) -> None:
    together, answers = threading.Barrier(8, timeout=20), {}

    def keep(key: int, answer: int) -> None:
        answers[key] = answer, threading.current_thread()

    def call(number: int) -> Callable[[], int]:
        return lambda: together.wait() * 0 + number * number

    crew.run([Task(number, call(number), True) for number in range(8)], keep)
    assert answers == {number: (number * number, threading.current_thread()) for number in range(8)}


def test_one_call_and_those_that_are_not_concurrent_are_made_here_one_after_the_other(crew: Crew) -> None:
    seen: list[tuple[int, bool]] = []
    here = threading.current_thread()
    tasks = [Task(number, lambda: threading.current_thread() is here, number == 1) for number in range(3)]
    crew.run(tasks, lambda key, answer: seen.append((key, answer)))
    assert seen == [(0, True), (1, True), (2, True)]
    crew.run([], lambda key, answer: seen.clear())
    assert len(seen) == 3


class Watched(ThreadPoolExecutor):
    def __init__(self) -> None:
        super().__init__(1)
        self.futures: list[Future[Any]] = []

    def submit(self, *args: Any, **named: Any) -> Future[Any]:
        self.futures.append(super().submit(*args, **named))
        return self.futures[-1]


def test_when_an_answer_cannot_be_kept_what_has_not_begun_never_will_and_what_has_is_waited_for(crew: Crew) -> None:
    pool = crew._pool = Watched()
    begun, over = [], []
    first, go = threading.Event(), threading.Event()

    def call(number: int) -> Callable[[], bool | None]:
        def work() -> None:
            begun.append(number)
            first.set()
            assert go.wait(20)
            over.append(number)

        return work

    def keep(key: int, answer: bool | None) -> None:
        if key == 6:
            raise LookupError("by this thread")

    def let_go() -> None:
        poll_until(lambda: len(pool.futures) == 6 and all(future.cancelled() for future in pool.futures[1:]))
        go.set()

    helper = threading.Thread(target=let_go)
    helper.start()
    tasks: list[Task[int, bool | None]] = [Task(number, call(number), True) for number in range(6)]
    with pytest.raises(LookupError):
        crew.run([*tasks, Task(6, lambda: first.wait(20), False)], keep)
    assert (begun, over) == ([0], [0])
    helper.join()


def test_an_error_of_a_call_is_the_callers(crew: Crew) -> None:
    def fail() -> None:
        raise LookupError("there")

    with pytest.raises(LookupError, match="there"):
        crew.run([Task(number, fail, True) for number in range(3)], lambda key, answer: None)


@pytest.mark.parametrize("here", [0, 1, 2])
def test_a_call_that_fails_keeps_no_others_answer_from_its_caller(crew: Crew, here: int) -> None:
    def call(number: int) -> Callable[[], int]:
        return lambda: 6 // number

    kept: dict[int, int] = {}
    with pytest.raises(ZeroDivisionError):
        crew.run([Task(number, call(number), number >= here) for number in range(4)], kept.__setitem__)
    assert kept == {1: 6, 2: 3, 3: 2}
