"""Jobs in threads of their own, for the parts of the kits about several at a time."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

__all__ = ["run"]


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
