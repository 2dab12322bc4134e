"""Objects in a service across a network: what may fail there, answered once for every client library.

A *service* does single requests. Around it: keys are checked, requests repeated within a deadline, and
an answer that got lost is told from a lost race by a mark that each write leaves beside the object.
"""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Protocol

from xenolect.errors import (
    AccessError,
    DuplicateError,
    NotFoundError,
    StorageError,
    UnavailableError,
)
from xenolect.interfaces import Buffer
from xenolect.objects import as_bytes, check_key, check_prefix, check_range, is_key
from xenolect_backends._patience import Patience, Turn

__all__ = ["MARK", "RemoteChunks", "Service", "Taken"]

log = logging.getLogger("xenolect.chunks")

MARK = "xenolect-write"
"""The metadata that tells one's own write from another's."""

_exclusive: set[str] = set()
"""Services that were seen to refuse a second create; of this process."""
_lock = threading.Lock()


class Taken(Exception):
    """The service refused a create because the name exists."""


class Service(Protocol):
    """Single requests to one place. Every foreign exception comes out as one of ``xenolect.errors``;
    UnavailableError is what may be sent again."""

    shown: str
    """The URL without secrets, for messages."""
    service: str
    """What the answer to the probe is true of: bucket and endpoint. Empty: nothing to find out."""

    def create(self, key: str, data: Buffer, mark: str) -> None:
        """Write under a condition; Taken if the name exists."""
        ...

    def replace(self, key: str, data: Buffer) -> None:
        """Write in any case."""
        ...

    def mark(self, key: str) -> str | None:
        """The mark of the object that is there; None where it has none. NotFoundError."""
        ...

    def read(self, key: str) -> bytes:
        """The whole object; NotFoundError."""
        ...

    def read_range(self, key: str, start: int, stop: int) -> bytes:
        """``start < stop``; what lies behind the end is left out. NotFoundError."""
        ...

    def remove(self, key: str) -> None:
        """Fine if it is not there."""
        ...

    def keys(self, prefix: str) -> Iterable[str]:
        """At least the keys that start so, in any order."""
        ...

    def close(self) -> None:
        """Let go of connections."""
        ...


class RemoteChunks:
    """``ChunkStore`` over a service. A fork connects anew: clients do not survive one."""

    def __init__(
        self, connect: Callable[[], Service], *, patience: Patience, probe: bool = True
    ) -> None:
        self._connect = connect
        self._patience = patience
        self._probe = probe
        self._pid = os.getpid()
        self._service = connect()
        self._probe_early()

    # -- the interface ----------------------------------------------------------------------------

    def put(self, key: str, data: Buffer, *, if_absent: bool = True) -> None:
        """Write one object; DuplicateError if it exists with ``if_absent``.

        UnavailableError leaves open whether it was written: the service did not answer.
        """
        check_key(key)
        view = as_bytes(data)
        service, turn = self._here(), self._patience.turn()
        if not if_absent:
            turn.run(lambda: service.replace(key, view))
            return
        self._check_exclusive(service, turn)
        mark = secrets.token_hex(16)

        def create() -> None:
            try:
                service.create(key, view, mark)
            except Taken as error:
                if not _ours(service, key, view, mark, turn):
                    raise DuplicateError(
                        f"{key!r} exists already; an object is written once"
                    ) from error

        turn.run(create)

    def get(self, key: str) -> bytes:
        """The whole object; NotFoundError names the key."""
        check_key(key)
        service = self._here()
        return self._patience.turn().run(lambda: service.read(key))

    def get_range(self, key: str, start: int, stop: int) -> bytes:
        """Bytes ``[start, stop)``; shorter only at the end of the object."""
        check_key(key)
        check_range(start, stop)
        service = self._here()
        # An empty range is no request that could be sent, but says whether the object is there.
        part = self._patience.turn().run(
            lambda: service.read_range(key, start, max(stop, start + 1))
        )
        return part[: stop - start]

    def delete(self, key: str) -> None:
        """Remove the object; fine if it is not there."""
        check_key(key)
        service = self._here()
        with contextlib.suppress(NotFoundError):
            self._patience.turn().run(lambda: service.remove(key))

    def list(self, prefix: str) -> Iterator[str]:
        """Every key that starts with ``prefix``, ascending."""
        check_prefix(prefix)
        service = self._here()
        return self._list(service, prefix)

    def close(self) -> None:
        """Let go of connections."""
        if self._pid == os.getpid():
            self._service.close()

    # -- what stands behind -----------------------------------------------------------------------

    def _here(self) -> Service:
        if self._pid != os.getpid():
            self._service = self._connect()
            self._pid = os.getpid()
        return self._service

    def _list(self, service: Service, prefix: str) -> Iterator[str]:
        # What no key can be was put there by somebody else, and could not be read either.
        found = self._patience.turn().run(
            lambda: [key for key in service.keys(prefix) if key.startswith(prefix) and is_key(key)]
        )
        found.sort()
        yield from found

    def _probe_early(self) -> None:
        """Find out at open where that is possible; what is away or read-only is asked at the first write."""
        try:
            self._check_exclusive(self._service, self._patience.once().turn())
        except (UnavailableError, AccessError) as error:
            log.warning(
                "whether %s refuses to create a key twice is checked at the first write: %s",
                self._service.shown,
                error,
            )

    def _check_exclusive(self, service: Service, turn: Turn) -> None:
        """Create one key twice: where the second succeeds too, commits would overwrite each other."""
        if not self._probe or not service.service or service.service in _exclusive:
            return
        key = f"probe-{secrets.token_hex(8)}"
        try:
            turn.run(lambda: service.create(key, b"probe", secrets.token_hex(16)))
        except Taken:
            pass  # our own, whose answer was lost; or a service that refuses even more than it should
        try:
            turn.run(lambda: service.create(key, b"again", secrets.token_hex(16)))
        except Taken:
            with _lock:
                _exclusive.add(service.service)
            return
        finally:
            with contextlib.suppress(Exception):
                service.remove(key)
        raise StorageError(
            f"{service.shown} lets two writers create the same object, so commits could overwrite each "
            f"other; use a service with conditional writes (If-None-Match), or set [chunks] probe = "
            f"false if exactly one process will ever write"
        )


def _ours(service: Service, key: str, data: memoryview, mark: str, turn: Turn) -> bool:
    """Was the object that is there written by this very call, whose answer got lost?

    Client libraries send a request again on their own where a connection broke, so the mark is looked
    at in any case. A service that keeps no marks is asked for the bytes, after a failure of ours: of
    two writers with the same bytes under one name both may well think they wrote them.
    """
    try:
        found = service.mark(key)
        if found is not None:
            return found == mark
        return turn.failures > 0 and service.read(key) == data
    except NotFoundError as error:  # removed meanwhile, or a service that is at odds with itself
        raise UnavailableError(
            f"writing {key!r}: the service says that it exists, and then that it does not; nothing was "
            f"stored"
        ) from error
