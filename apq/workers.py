"""Calls spread over processes that end with the one that asked."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from typing import Any, TypeVar

Result = TypeVar("Result")


def spread(
    function: Callable[..., Result], arguments: Iterable[tuple[Any, ...]], jobs: int
) -> Iterator[Result]:
    """What ``function`` returns for all these arguments, in the order in which calls end.

    joblib's workers outlive a parent that is killed: they finish what they do and hold their memory
    for minutes. Those that have begun a call here notice within a second and end.

    Args:
        function: What worker processes can import.
        arguments: Of each call; sent to the workers, large arrays as shared memory.
        jobs: Worker processes; 1 calls it in this process.
    """
    from joblib import Parallel, delayed

    parallel = Parallel(n_jobs=jobs, return_as="generator_unordered", max_nbytes="1M")
    yield from parallel(delayed(_call)(os.getpid(), function, args) for args in arguments)


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
