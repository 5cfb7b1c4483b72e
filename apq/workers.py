"""Calls spread over processes that end with the one that asked."""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any, TypeVar

from apq.errors import ApqError

Result = TypeVar("Result")


def spread(
    function: Callable[..., Result], arguments: Iterable[tuple[Any, ...]], workers: int
) -> Iterator[Result]:
    """What ``function`` returns for all these arguments, in the order in which calls end.

    joblib's workers outlive a parent that is killed: they finish what they do and hold their memory
    for minutes. Those that have begun a call here notice within a second and end.

    Args:
        function: What worker processes can import.
        arguments: Of each call; sent to the workers, large arrays as shared memory.
        workers: Worker processes; 1 calls it in this process.
    """
    from joblib import Parallel, delayed

    parallel = Parallel(n_jobs=workers, return_as="generator_unordered", max_nbytes="1M")
    yield from parallel(delayed(_call)(os.getpid(), function, args) for args in arguments)


def available_cores() -> int:
    """Processor cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@dataclass(frozen=True)
class Place:
    """Which of the processes that ``torchrun`` started this is.

    Attributes:
        number: Of this process, from 0.
        count: Processes on all machines; 1 without ``torchrun``.
        local: Number of this process on its machine.
        local_count: Processes on this machine.
    """

    number: int = 0
    count: int = 1
    local: int = 0
    local_count: int = 1


def torchrun_place() -> Place:
    """This process's place, as ``torchrun`` says it in the environment."""
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
    said = [os.environ.get(name, "") for name in names]
    if "MASTER_ADDR" not in os.environ or not all(value.isdecimal() for value in said):
        return Place()
    return Place(*map(int, said))


def default_workers() -> int:
    """Worker processes that leave a core to whom they work for, at least one; those that
    ``torchrun`` started on this machine share its cores."""
    return max(1, available_cores() // torchrun_place().local_count - 1)


def ahead(
    function: Callable[..., Result], arguments: Iterable[tuple[Any, ...]], workers: int, depth: int
) -> Iterator[Result]:
    """What ``function`` returns for all these arguments, in their order, worked out ahead.

    Arguments are drawn, and results held, for ``depth`` calls at most, however slowly they are
    taken. Worker processes stay for the next call of this function, and end with this process.

    Args:
        function: What worker processes can import.
        arguments: Of each call.
        workers: Worker processes.
        depth: Calls that are under way or done and not taken.
    """
    from joblib.externals.loky.process_executor import TerminatedWorkerError

    waiting: deque[Any] = deque()
    executor = _executor(workers)
    try:
        for args in arguments:
            waiting.append(executor.submit(_call, os.getpid(), function, args))
            if len(waiting) >= depth:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    except TerminatedWorkerError as error:
        _executor.cache_clear()
        raise ApqError(
            "a worker process was ended by the system, most likely for want of memory"
        ) from error
    finally:
        for future in waiting:
            future.cancel()


@cache
def _executor(workers: int) -> Any:
    from joblib.externals.loky import ProcessPoolExecutor

    return ProcessPoolExecutor(max_workers=workers, timeout=60)


def _call(parent: int, function: Callable[..., Result], args: tuple[Any, ...]) -> Result:
    if os.getpid() != parent:
        _end_with(parent)
    return function(*args)


@cache
def _end_with(parent: int) -> None:
    """Watch, from now on, whether this process still has that parent."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1.0)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
