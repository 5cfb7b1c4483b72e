"""Calls spread over a Dask cluster that is there already; its workers may end and join."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

from apq.errors import ApqError

Result = TypeVar("Result")
MOST = 400
"""Calls that are under way at once; whoever asks may hold a file open for each."""


@contextlib.contextmanager
def connected(address: str | None) -> Iterator[Any]:
    """A client of the scheduler at an address, ``tcp://host:8786``; None without one.

    Raises:
        ApqError: nothing answers there, or ``distributed`` is not installed.
    """
    if address is None:
        yield None
        return
    try:
        from distributed import Client
    except ImportError as error:
        raise ApqError(
            "a Dask cluster needs the package distributed: pip install 'apq-nas[dask]'"
        ) from error
    try:
        client = Client(address, timeout=10)
    except (OSError, ValueError) as error:
        raise ApqError(
            f"no Dask scheduler answers at {address!r} ({str(error).splitlines()[0]}). "
            "`dask scheduler` starts one and prints its address, like tcp://10.0.0.5:8786"
        ) from error
    with client:
        yield client


def spread_on(
    client: Any,
    function: Callable[..., Result],
    shared: Any,
    arguments: Iterable[tuple[Any, ...]],
) -> Iterator[Result]:
    """What ``function(shared, *args)`` returns for all these arguments, in the order in which calls
    end.

    What a worker did not finish before it ended is done by another. Arguments are drawn as workers
    need them.

    Args:
        client: From :func:`connected`.
        function: What workers can import.
        shared: Sent to the scheduler once, and by it to every worker.
        arguments: Of each call, small.

    Raises:
        ApqError: what a call raises; several workers in a row ended with the same call; or the
            scheduler has ended.
    """
    from distributed import as_completed

    ended = as_completed(loop=client.loop)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Sending large graph", UserWarning)
        held = client.submit(_same, shared, pure=False)
    for args in arguments:
        ended.add(client.submit(function, held, *args, pure=False))
        if ended.count() >= min(MOST, 2 * max(1, sum(client.nthreads().values()))):
            yield _result(next(ended))
    yield from map(_result, ended)


def _same(value: Any) -> Any:
    """As a call of its own this is made again where the worker that held it has ended."""
    return value


def _result(future: Any) -> Any:
    from concurrent.futures import CancelledError

    from distributed import KilledWorker
    from distributed.comm import CommClosedError

    try:
        return future.result()
    except KilledWorker as error:
        raise ApqError(
            "several workers in a row ended during the same call, most likely for want of memory; "
            "what was finished is saved, and the same command continues"
        ) from error
    except (CancelledError, CommClosedError) as error:
        raise ApqError(
            "the Dask scheduler has ended; what was finished is saved, and the same command "
            "continues"
        ) from error
    except ImportError as error:
        raise ApqError(
            f"a worker of the cluster cannot load apq ({error}); install the same version there"
        ) from error
