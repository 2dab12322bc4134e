"""Chunks in a directory or under any URL that fsspec opens: ``s3://``, ``gs://``, ``memory://``.

Local files are written and read by ``_local``: fsspec's local writes are neither durable nor exclusive.
Elsewhere create-if-absent is the service's: fsspec's ``mode="create"`` is a real
condition on S3, Google and Azure; a file system where it is not is refused by a probe.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

from xenolect.errors import NotFoundError, StorageError
from xenolect.interfaces import Buffer, ChunkStore
from xenolect.objects import as_bytes, check_key, check_prefix, check_range
from xenolect_backends._endpoints import Endpoint
from xenolect_backends._fsspec_service import FsspecService
from xenolect_backends._local import LocalFiles, raise_translated, read, read_into
from xenolect_backends._patience import Patience
from xenolect_backends._remote import RemoteChunks

__all__ = ["FsspecChunks"]

T = TypeVar("T")
_DEFAULT = Patience()
_AMAZON = Endpoint()


class FsspecChunks:
    """``ChunkStore`` over fsspec: a directory, or a service across the network."""

    def __init__(
        self,
        url: str | os.PathLike[str],
        *,
        patience: Patience = _DEFAULT,
        endpoint: Endpoint = _AMAZON,
        options: Mapping[str, Any] | None = None,
        probe: bool = True,
    ) -> None:
        text = os.fspath(url)
        scheme, found, _ = text.partition("://")
        self._inner: ChunkStore
        if not found or scheme in ("file", "local"):
            self._inner = FileChunks(text)
        else:
            self._inner = RemoteChunks(
                lambda: FsspecService(
                    text, timeout=patience.timeout, endpoint=endpoint, options=options or {}
                ),
                patience=patience,
                probe=probe,
            )

    def put(self, key: str, data: Buffer, *, if_absent: bool = True) -> None:
        """Write one object, durable before returning; DuplicateError if it exists with ``if_absent``."""
        self._inner.put(key, data, if_absent=if_absent)

    def get(self, key: str) -> bytes:
        """The whole object; NotFoundError names the key."""
        return self._inner.get(key)

    def get_range(self, key: str, start: int, stop: int) -> bytes:
        """Bytes ``[start, stop)``; shorter only at the end of the object."""
        return self._inner.get_range(key, start, stop)

    def get_into(self, key: str, start: int, target: memoryview) -> int:
        """Fill ``target`` from byte ``start`` on; how many bytes there were."""
        if isinstance(self._inner, FileChunks):
            return self._inner.get_into(key, start, target)
        data = self._inner.get_range(key, start, start + len(target))
        target[: len(data)] = data
        return len(data)

    def delete(self, key: str) -> None:
        """Remove the object; fine if it is not there."""
        self._inner.delete(key)

    def list(self, prefix: str) -> Iterator[str]:
        """Every key that starts with ``prefix``, ascending."""
        return self._inner.list(prefix)

    def close(self) -> None:
        """Let go of connections."""
        self._inner.close()


class FileChunks:
    """``ChunkStore`` in a directory."""

    def __init__(self, url: str) -> None:
        import fsspec  # 60 ms

        try:
            _, root = fsspec.core.url_to_fs(url, skip_instance_cache=True)
        except (ImportError, ValueError) as error:
            raise StorageError(
                f"chunks: {url} can not be opened: {error}; correct the URL"
            ) from error
        self._files = LocalFiles(root)

    def put(self, key: str, data: Buffer, *, if_absent: bool = True) -> None:
        """Write one object, durable before returning."""
        check_key(key)
        self._files.put(key, as_bytes(data), if_absent=if_absent)

    def get(self, key: str) -> bytes:
        """The whole object."""
        path = self._files.place(check_key(key))
        return self._read(key, lambda: read(path))

    def get_range(self, key: str, start: int, stop: int) -> bytes:
        """Bytes ``[start, stop)``."""
        path = self._files.place(check_key(key))
        check_range(start, stop)
        if start == stop and not os.path.isfile(path):  # an empty range says nothing of the object
            raise NotFoundError(f"no object {key!r} in {self._files.root}")
        return self._read(key, lambda: read(path, start, stop))

    def get_into(self, key: str, start: int, target: memoryview) -> int:
        """Fill ``target`` from byte ``start`` on; how many bytes there were."""
        path = self._files.place(check_key(key))
        check_range(start, start + len(target))
        return self._read(key, lambda: read_into(path, start, target))

    def delete(self, key: str) -> None:
        """Remove the object, durable before returning; fine if it is not there."""
        check_key(key)
        try:
            self._files.delete(key)
        except IsADirectoryError:
            pass  # keys begin with it; itself it is none
        except OSError as error:
            raise_translated(error, f"deleting {key!r}")

    def list(self, prefix: str) -> Iterator[str]:
        """Every key that starts with ``prefix``, ascending."""
        check_prefix(prefix)
        return self._files.list(prefix)

    def close(self) -> None:
        """Nothing is held open."""

    def _read(self, key: str, call: Callable[[], T]) -> T:
        try:
            return call()
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError) as error:
            raise NotFoundError(f"no object {key!r} in {self._files.root}") from error
        except OSError as error:
            raise_translated(error, f"reading {key!r}")
