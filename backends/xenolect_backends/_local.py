"""Objects as files: published durably and exactly once, never through a link out of the store.

fsspec's own local writes do not fsync, and its ``mode="create"`` is a check followed by a write: of
200 races 131 had several winners. Here an object is written under a temporary name beside its place,
synced, and given its name by link(2), which fails if the name is taken and shows all of it or nothing.

On Windows NTFS has hard links too; a directory can not be synced there, so after a power failure the
newest names may be missing. On macOS fsync leaves the data in the drive's cache, so F_FULLFSYNC is asked
for. File systems without hard links (FAT, some network mounts) are refused.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import stat
import sys
import time
from collections.abc import Iterator
from typing import NoReturn

from xenolect.errors import (
    CorruptError,
    DuplicateError,
    InvalidError,
    StorageError,
    StorageFullError,
)
from xenolect.objects import TEMPORARY

__all__ = ["FULL", "LocalFiles", "raise_translated", "read", "read_into", "sync_directory"]

FULL = frozenset((errno.ENOSPC, errno.EFBIG, getattr(errno, "EDQUOT", errno.ENOSPC)))
"""Numbers of errors that say: no space, no larger file, no quota."""
_NO_LINKS = {
    errno.EPERM,
    errno.EXDEV,
    errno.EMLINK,
    getattr(errno, "ENOTSUP", errno.EPERM),
    getattr(errno, "EOPNOTSUPP", errno.EPERM),
}
_STALE = 86400.0  # seconds after which a temporary file is a dead process's
_BINARY = getattr(os, "O_BINARY", 0)


def raise_translated(error: OSError, what: str) -> NoReturn:
    """StorageFullError where space, size or quota is at its end; StorageError otherwise."""
    if error.errno in FULL:
        raise StorageFullError(
            f"{what}: {error}; free some space or raise the quota, nothing was stored"
        ) from error
    raise StorageError(f"{what}: {error}") from error


def read(path: str, start: int = 0, stop: int | None = None) -> bytes:
    """Bytes ``[start, stop)`` of a file, fewer only at its end. OSError.

    A third of the time that fsspec's own way takes, which opens a file with a buffer it does not need.
    """
    with open(path, "rb", buffering=0) as file:
        if start:
            file.seek(start)
        if stop is None:
            return file.readall()
        missing = min(stop, os.fstat(file.fileno()).st_size) - start
        data = file.read(max(0, missing))
        while len(data) < missing and (more := file.read(missing - len(data))):
            data += more
        return data


def read_into(path: str, start: int, target: memoryview) -> int:
    """Fill ``target`` from byte ``start`` of a file on; how many bytes there were. OSError."""
    with open(path, "rb", buffering=0) as file:
        if start:
            file.seek(start)
        done = 0
        while done < len(target):
            read = file.readinto(target[done:])
            if not read:
                break
            done += read
    return done


class LocalFiles:
    """A directory of objects. Keys were checked before they come here."""

    def __init__(self, root: str) -> None:
        self.root = os.path.realpath(root)
        self._durable: set[str] = set()
        """Folders whose names this process has synced in the folder above."""

    def place(self, key: str) -> str:
        """The path of a key; CorruptError if a link was planted anywhere on the way.

        lstat costs 1 us a part. The root itself may be reached through links: that is the owner's
        choice.
        """
        path = root = self.root.rstrip(os.sep)
        parts = key.split("/")
        for part in parts:
            path = f"{path}{os.sep}{part}"
            try:
                mode = os.lstat(path).st_mode
            except (FileNotFoundError, NotADirectoryError):
                break
            except OSError as error:
                raise_translated(error, f"looking at {key!r}")
            if stat.S_ISLNK(mode):
                raise CorruptError(
                    f"{path} is a symbolic link, and a store contains none; remove it and find out who "
                    f"put it there",
                    key=key,
                )
        else:
            return path
        return os.sep.join((root, *parts))

    def put(self, key: str, data: memoryview, *, if_absent: bool) -> None:
        """Publish one object, durable before returning."""
        path = self.place(key)
        if if_absent and os.path.lexists(path):
            raise _duplicate(key)
        folder = os.path.dirname(path)
        temporary = os.path.join(folder, TEMPORARY + secrets.token_hex(8))
        try:
            try:
                file = _create(temporary)
            except FileNotFoundError:
                self._durable.clear()
                os.makedirs(folder, exist_ok=True)
                file = _create(temporary)
            try:
                _write(file, data)
            finally:
                os.close(file)
            if if_absent:
                _link(temporary, path, key)
                os.unlink(temporary)
            else:
                os.replace(temporary, path)
            sync_directory(folder)
            self._settle(folder)
        except NotADirectoryError as error:
            raise InvalidError(f"{key!r} lies under another object; choose another key") from error
        except OSError as error:
            raise_translated(error, f"writing {key!r}")
        finally:
            with contextlib.suppress(OSError):
                os.unlink(temporary)

    def delete(self, key: str) -> None:
        """Remove an object, durable before returning: a wrapped key that came back with the power would
        open what was shredded. Also where it is gone already, since who removed it may have failed, or
        died, before it synced."""
        path = self.place(key)
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)
            sync_directory(os.path.dirname(path))

    def list(self, prefix: str) -> Iterator[str]:
        """Keys that start with ``prefix``, ascending, one directory at a time; links are not followed.

        Temporary files that are older than a day are a dead process's, and removed on the way.
        """
        folder = prefix.rpartition("/")[0]
        yield from self._walk(folder, prefix)

    def _walk(self, folder: str, prefix: str) -> Iterator[str]:
        if folder:
            self.place(folder)
        found = []
        try:
            with os.scandir(os.path.join(self.root, *folder.split("/"))) as entries:
                for entry in entries:
                    if entry.name.startswith(TEMPORARY):
                        _remove_stale(entry)
                        continue
                    key = f"{folder}/{entry.name}" if folder else entry.name
                    if entry.is_dir(follow_symlinks=False):
                        # With its slash, so that 'a/b' comes after 'a-b' and 'a.b' as keys do.
                        found.append(key + "/")
                    elif entry.is_file(follow_symlinks=False):
                        found.append(key)
        except (FileNotFoundError, NotADirectoryError):
            return
        except OSError as error:
            raise_translated(error, f"listing {folder!r}")
        for key in sorted(found):
            if key.endswith("/"):
                if key.startswith(prefix) or prefix.startswith(key):
                    yield from self._walk(key[:-1], prefix)
            elif key.startswith(prefix):
                yield key

    def _settle(self, folder: str) -> None:
        """Make the names of a folder and of those above durable, once in a process.

        Also where they were there before: who made them may have died, or failed, before it synced them.
        """
        unknown = []
        while folder not in self._durable:
            unknown.append(folder)
            if folder == self.root:
                break
            folder = os.path.dirname(folder)
        for each in reversed(unknown):  # from above, so that what is known holds all the way up
            try:
                sync_directory(os.path.dirname(each))
            except PermissionError:
                if each != self.root:  # what the store lies in is the owner's
                    raise
            self._durable.add(each)


def _duplicate(key: str) -> DuplicateError:
    return DuplicateError(f"{key!r} exists already; an object is written once")


def _create(path: str) -> int:
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _BINARY, 0o666)


def _write(file: int, data: memoryview) -> None:
    while data:
        data = data[os.write(file, data) :]
    _sync(file)


# Each system's calls are named where they are made: the others lack them.

if sys.platform == "darwin":

    def _sync(file: int) -> None:
        import fcntl

        try:
            fcntl.fcntl(file, fcntl.F_FULLFSYNC)
        except OSError:  # a file system, or a mount, that does not know it
            os.fsync(file)

else:

    def _sync(file: int) -> None:
        # fdatasync still writes what is needed to read the file back, its size included (POSIX).
        getattr(os, "fdatasync", os.fsync)(file)


def _link(temporary: str, path: str, key: str) -> None:
    try:
        os.link(temporary, path)
    except FileExistsError:
        raise _duplicate(key) from None
    except (OSError, AttributeError) as error:  # a system without them has no such function
        if isinstance(error, AttributeError) or error.errno in _NO_LINKS:
            raise StorageError(
                f"{os.path.dirname(path)} is on a file system without hard links, so of two writers "
                f"both could win; put the store on ext4, xfs, btrfs, APFS or NTFS"
            ) from error
        raise


def sync_directory(folder: str) -> None:
    """Make the names in a directory durable. OSError."""
    if sys.platform == "win32":
        return
    file = os.open(folder, os.O_RDONLY | getattr(os, "O_DIRECTORY", 0))
    try:
        _sync(file) if sys.platform == "darwin" else os.fsync(file)
    finally:
        os.close(file)


def _remove_stale(entry: os.DirEntry[str]) -> None:
    with contextlib.suppress(OSError):
        if time.time() - entry.stat(follow_symlinks=False).st_mtime > _STALE:
            os.unlink(entry.path)
