"""A manager that is still open when the program ends is closed, so that what waits is stored.

``os._exit``, a signal nobody handles, and a process of ``multiprocessing`` before Python 3.13 end without
it: there whoever measured calls ``flush``, or loses up to ``metrics.flush_interval``.
"""

from __future__ import annotations

import atexit
import logging
import weakref
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from xenolect.manager import EmergenceManager

__all__ = ["close_at_exit"]

log = logging.getLogger("xenolect.variants")


def close_at_exit(manager: EmergenceManager) -> Callable[[], None]:
    """Close it when the interpreter ends, if it lives so long; the returned function undoes that."""
    close = partial(_close, weakref.ref(manager))
    atexit.register(close)
    return partial(atexit.unregister, close)


def _close(reference: weakref.ref[EmergenceManager]) -> None:
    manager = reference()
    if manager is None:
        return
    try:
        manager.close()
    except Exception as error:
        log.warning("a manager left open could not be closed at exit: %s", error)
