"""Chunks in a directory or under any URL that fsspec opens: ``s3://``, ``gs://``, ``memory://``.

Local files are written by ``_local`` (fsspec's local writes are neither durable nor exclusive) and
read through fsspec. Elsewhere create-if-absent is the service's: fsspec's ``mode="create"`` is a real
condition on S3, Google and Azure; a file system where it is not is refused by a probe.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NoReturn, TypeVar

from xenolect.errors import (
    DuplicateError,
    EmergenceError,
    NotFoundError,
    StorageError,
    UnavailableError,
)
from xenolect.interfaces import Buffer
from xenolect.units import Seconds
from xenolect_backends._keys import as_bytes, check_key, check_prefix, check_range
from xenolect_backends._local import LocalFiles, raise_translated

__all__ = ["FsspecChunks"]

T = TypeVar("T")

_LOST = {"PreconditionFailed", "ConditionalRequestConflict", "ConditionNotMet", "412", "409"}
_memory_lock = threading.Lock()
"""fsspec's memory is one dictionary per process, whose create checks first and writes then."""


class FsspecChunks:
    """``ChunkStore`` over fsspec. A fork opens its own file system: S3 clients do not survive one."""

    def __init__(
        self,
        url: str | os.PathLike[str],
        *,
        timeout: float = Seconds(30.0),
        options: Mapping[str, Any] | None = None,
        probe: bool = True,
    ) -> None:
        self.url = os.fspath(url)
        self._timeout = timeout
        self._options = dict(options or {})
        self._probe = probe
        self._open()

    def _open(self) -> None:
        import fsspec  # 60 ms

        # Listings are never cached: other processes write here. Instances are not shared, so that
        # closing one, or forking, never takes another's connections along.
        options = {"use_listings_cache": False, "skip_instance_cache": True, **self._options}
        try:
            self._fs, root = fsspec.core.url_to_fs(self.url, **options)
        except (ImportError, ValueError) as error:
            raise StorageError(
                f"chunks: {self.url} can not be opened: {error}; install what it names, or correct the "
                f"URL"
            ) from error
        self._pid = os.getpid()
        self._root = str(root).rstrip("/")
        protocols = self._fs.protocol
        self._protocols = {protocols} if isinstance(protocols, str) else set(protocols)
        self._local = LocalFiles(root) if "file" in self._protocols else None
        self._limits = {"timeout": self._timeout} if self._fs.async_impl else {}
        self._probed = not self._probe or self._local is not None or "memory" in self._protocols

    # -- the interface ----------------------------------------------------------------------------

    def put(self, key: str, data: Buffer, *, if_absent: bool = True) -> None:
        """Write one object, durable before returning; DuplicateError if it exists with ``if_absent``."""
        check_key(key)
        view = as_bytes(data)
        self._here()
        if self._local is not None:
            self._local.put(key, view, if_absent=if_absent)
            return
        if if_absent and not self._probed:
            self._check_create()
        try:
            self._publish(key, bytes(view), if_absent=if_absent)
        except FileExistsError:
            raise DuplicateError(f"{key!r} exists already; an object is written once") from None
        except Exception as error:
            self._raise(error, f"writing {key!r}")

    def get(self, key: str) -> bytes:
        """The whole object; NotFoundError names the key."""
        path = self._place(key)
        return bytes(self._call(key, lambda: self._fs.cat_file(path, **self._limits)))

    def get_range(self, key: str, start: int, stop: int) -> bytes:
        """Bytes ``[start, stop)``; shorter only at the end of the object."""
        check_range(start, stop)
        path = self._place(key)
        if start == stop or (self._local is None and "memory" not in self._protocols):
            # An empty range says nothing of the object, and one behind the end is an error on S3
            # (416) and others: ask what is there.
            info = self._call(key, lambda: self._fs.info(path, **self._limits))
            if info["type"] != "file":
                raise NotFoundError(f"no object {key!r} in {self.url}")
            stop = min(stop, info["size"])
            if start >= stop:
                return b""
        return bytes(
            self._call(key, lambda: self._fs.cat_file(path, start=start, end=stop, **self._limits))
        )

    def delete(self, key: str) -> None:
        """Remove the object; fine if it is not there."""
        path = self._place(key)
        with contextlib.suppress(NotFoundError):
            self._call(key, lambda: self._fs.rm_file(path))

    def list(self, prefix: str) -> Iterator[str]:
        """Every key that starts with ``prefix``, ascending."""
        check_prefix(prefix)
        self._here()
        return self._list(prefix)

    def close(self) -> None:
        """Let go of listings; fsspec closes its connections with the last reference."""
        with contextlib.suppress(Exception):
            self._fs.invalidate_cache()

    # -- what stands behind -----------------------------------------------------------------------

    def _list(self, prefix: str) -> Iterator[str]:
        if self._local is not None:
            yield from self._local.list(prefix)
            return
        folder = f"{self._root}/{prefix.rpartition('/')[0]}".rstrip("/")
        try:
            paths = self._fs.find(folder, **self._limits)
        except FileNotFoundError:
            return
        except Exception as error:
            self._raise(error, f"listing {prefix!r}")
        for key in sorted(str(path)[len(self._root) :].lstrip("/") for path in paths):
            if key.startswith(prefix):
                yield key

    def _here(self) -> None:
        if self._pid != os.getpid():
            self._open()

    def _place(self, key: str) -> str:
        check_key(key)
        self._here()
        return f"{self._root}/{key}" if self._local is None else self._local.place(key)

    def _call(self, key: str, call: Callable[[], T]) -> T:
        try:
            return call()
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError) as error:
            raise NotFoundError(f"no object {key!r} in {self.url}") from error
        except Exception as error:
            self._raise(error, f"reading {key!r}")

    def _publish(self, key: str, data: bytes, *, if_absent: bool) -> None:
        """One conditional or plain write; FileExistsError when the name is taken by another's write."""
        path = f"{self._root}/{key}"
        if "memory" in self._protocols:
            with _memory_lock:
                self._fs.pipe_file(path, data, mode="create" if if_absent else "overwrite")
            return
        if not if_absent:
            self._fs.pipe_file(path, data, **self._limits)
            return
        # fsspec's clients try again after a time-out, so the answer "exists" may be about our own
        # first attempt. On S3 a mark in the object's metadata tells.
        mark = secrets.token_hex(16)
        marked = {"Metadata": {"xenolect-write": mark}} if "s3" in self._protocols else {}
        try:
            self._fs.pipe_file(path, data, mode="create", **marked, **self._limits)
        except Exception as error:
            if not _taken(error):
                raise
            if marked and self._fs.metadata(path).get("xenolect-write") == mark:
                return
            raise FileExistsError(path) from error

    def _check_create(self) -> None:
        """Create one key twice: where the second succeeds too, commits would overwrite each other."""
        key = f"probe-{secrets.token_hex(8)}"
        try:
            self._publish(key, b"probe", if_absent=True)
            try:
                self._publish(key, b"again", if_absent=True)
            except FileExistsError:
                self._probed = True
                return
            raise StorageError(
                f"{self.url} lets two writers create the same object, so commits could overwrite each "
                f"other; use a service with conditional writes, or set [chunks] probe = false if "
                f"exactly one process will ever write"
            )
        except EmergenceError:
            raise
        except Exception as error:
            self._raise(error, f"probing {self.url}")
        finally:
            with contextlib.suppress(Exception):
                self._fs.rm_file(f"{self._root}/{key}")

    def _raise(self, error: Exception, what: str) -> NoReturn:
        from fsspec.exceptions import FSTimeoutError

        if isinstance(error, EmergenceError):
            raise error
        if isinstance(error, (FSTimeoutError, TimeoutError, ConnectionError)):
            raise UnavailableError(
                f"{what}: {self.url} does not answer within {self._timeout:g} s; try again"
            ) from error
        if isinstance(error, OSError):
            raise_translated(error, what)
        raise StorageError(f"{what}: {type(error).__name__}: {error}") from error


def _taken(error: BaseException) -> bool:
    """Is this a lost race? s3fs says EINVAL or EIO for it on some services; the answer is behind."""
    if isinstance(error, FileExistsError):
        return True
    cause: Any = error.__cause__
    answer = getattr(cause, "response", None)
    return isinstance(answer, dict) and str(answer.get("Error", {}).get("Code")) in _LOST
