"""Jobs in threads of their own, for tests about several at a time."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence

__all__ = ["fork_among_threads", "run"]


def run(jobs: Sequence[Callable[[], None]]) -> None:
    """Run all jobs in threads of their own; re-raise the first error."""
    errors: list[BaseException] = []

    def guarded(job: Callable[[], None]) -> None:
        try:
            job()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=guarded, args=(job,)) for job in jobs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]


def fork_among_threads(
    jobs: Sequence[Callable[[int], object]], child: Callable[[int], object], children: int
) -> None:
    """Fork while other threads never rest: what a store must survive in a server that preforks.

    Each job runs again and again in a thread of its own, given 1, 2, 3, ...; ``child`` runs once in each
    forked process, given its number from 0 on. Raises the first error of a job, and AssertionError
    where a child failed. A child that is stuck is for the test's own timeout to end.
    """
    stop = threading.Event()

    def again(job: Callable[[int], object]) -> Callable[[], None]:
        def work() -> None:
            number = 0
            while not stop.is_set():
                number += 1
                job(number)

        return work

    def fork() -> None:
        pids = []
        try:
            for number in range(children):
                pids.append(os.fork())
                if pids[-1] == 0:
                    status = 1
                    try:
                        child(number)
                        status = 0
                    finally:
                        os._exit(status)
            codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids]
        finally:
            stop.set()
        assert codes == [0] * children, f"exit codes of the children: {codes}"

    run([*map(again, jobs), fork])
