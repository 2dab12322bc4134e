"""Takes away what only POSIX or only Linux has, imports everything, and uses a store.

Run as ``python elsewhere.py SYSTEM DIRECTORY``, with SYSTEM "win32" or "darwin"; prints JSON. Windows is
played with a ``msvcrt`` that locks as Windows does: the second handle of one byte is refused.
"""

from __future__ import annotations

import errno
import importlib
import json
import os
import pkgutil
import sys
import types
from pathlib import Path
from typing import Any

# modules and functions that a system does not have, out of those the standard library has on Linux
ABSENT = {
    "win32": {
        "modules": ["fcntl", "grp", "pwd", "resource", "syslog", "termios", "tty", "pty", "readline"],
        "os": [
            "fork", "forkpty", "register_at_fork", "fdatasync", "memfd_create", "preadv", "pwritev", "pread",
            "pwrite", "posix_fadvise", "posix_fallocate", "sched_getaffinity", "sched_setaffinity",
            "getuid", "geteuid", "getgid", "getpgid", "setsid", "killpg", "uname", "fchmod", "fchown",
            "chown", "mkfifo", "sendfile", "splice", "statvfs", "fstatvfs", "copy_file_range", "sync",
            "O_DIRECTORY", "O_CLOEXEC", "O_NOFOLLOW", "O_NONBLOCK", "WNOHANG", "MFD_CLOEXEC", "eventfd",
            "getloadavg", "nice", "openpty", "setuid", "wait", "waitid", "wait3", "wait4",
        ],
        "time": ["clock_gettime", "CLOCK_BOOTTIME", "CLOCK_MONOTONIC", "tzset"],
        "signal": ["SIGKILL", "SIGHUP", "SIGUSR1", "SIGALRM", "setitimer", "pthread_sigmask"],
        "mmap": ["MADV_HUGEPAGE", "PROT_READ", "PROT_WRITE", "MAP_SHARED", "MAP_PRIVATE"],
        "socket": ["AF_UNIX"],
    },
    "darwin": {
        "modules": ["spwd"],
        "os": [
            "fdatasync", "memfd_create", "posix_fadvise", "posix_fallocate", "sched_getaffinity",
            "sched_setaffinity", "splice", "copy_file_range", "MFD_CLOEXEC", "MFD_ALLOW_SEALING", "eventfd",
        ],
        "time": ["CLOCK_BOOTTIME"],
        "signal": [],
        "mmap": ["MADV_HUGEPAGE"],
        "socket": [],
    },
}  # fmt: skip


def take_away(system: str, place: Path) -> None:
    """Make this process look like ``system``, as far as what is there goes."""
    import mmap
    import signal
    import socket
    import time

    import_all()
    use(place)  # what others wrote is installed for the system it runs on: load it as it is
    for name in [name for name in sys.modules if name.partition(".")[0].startswith("xenolect")]:
        del sys.modules[name]

    absent = ABSENT[system]
    for name in absent["modules"]:
        sys.modules[name] = None  # type: ignore[assignment]
    places = {"os": os, "time": time, "signal": signal, "mmap": mmap, "socket": socket}
    for place, module in places.items():
        for name in absent[place]:
            if hasattr(module, name):
                delattr(module, name)
    sys.platform = system
    if system == "win32":
        sys.modules["msvcrt"] = windows_locks()
    else:
        full_sync()


SYNCED = [0]


def full_sync() -> None:
    """``fcntl`` with the command of macOS that reaches the disk."""
    import fcntl

    plain, fcntl.F_FULLFSYNC = fcntl.fcntl, 51  # type: ignore[attr-defined, misc]

    def asked(file: int, command: int, *rest: Any) -> Any:
        if command != 51:
            return plain(file, command, *rest)
        SYNCED[0] += 1
        return os.fsync(file)

    fcntl.fcntl = asked  # type: ignore[assignment]


def windows_locks() -> types.ModuleType:
    """``msvcrt`` with the byte lock of Windows: by handle, and refused with EACCES."""
    made: Any = types.ModuleType("msvcrt")
    made.LK_LOCK, made.LK_NBLCK, made.LK_UNLCK = 1, 2, 0
    made.calls = 0
    taken: dict[tuple[int, int, int], int] = {}

    def locking(file: int, mode: int, size: int) -> None:
        made.calls += 1
        found = os.fstat(file)
        byte = found.st_dev, found.st_ino, os.lseek(file, 0, os.SEEK_CUR)
        if mode == made.LK_UNLCK:
            if taken.get(byte) != file:
                raise OSError(errno.EACCES, "not locked by this handle")
            del taken[byte]
        elif byte in taken:
            raise OSError(errno.EACCES, "locked by another handle")
        else:
            taken[byte] = file

    made.locking = locking
    return made


def import_all() -> list[str]:
    """Every module of the three packages; only what an extra brings may be missing."""
    seen = []
    for root in ("xenolect", "xenolect_plugins", "xenolect_backends"):
        package = importlib.import_module(root)
        for module in pkgutil.walk_packages(package.__path__, f"{root}."):
            if module.name.endswith("__main__"):
                continue
            importlib.import_module(module.name)
            seen.append(module.name)
    return seen


def use(place: Path) -> dict[str, Any]:
    """Variants, an agent, a selection, a measurement, states, a patch, and all of it again after closing."""
    from xenolect import AgentContext, EmergenceManager

    with EmergenceManager.open(place) as manager:
        manager.variants.activate(manager.variants.propose("x", {}, id="json"))
        manager.agents.register("agent-7", AgentContext({}))
        chosen = manager.select("agent-7").variant.id
        manager.report("json", "agent-7", success=True).wait()
        manager.states.put("json", {"some": ["state"]})
        large = bytes(range(256)) * 20_000
        manager.states.put("json", large)
        manager.states.patch("json", {3_000_000: b"patched"})
    with EmergenceManager.open(place) as manager:
        buffer = bytearray(len(large))
        manager.states.read_into("json", buffer)
        return {
            "chosen": chosen,
            "first": manager.states.get("json", version=1),
            "patched": bytes(buffer[3_000_000:3_000_007]).decode(),
            "rest": bytes(buffer[:3_000_000]) == large[:3_000_000],
            "again": len(manager.states.get("json")) == len(large),
            "count": manager.performance.history("json").count,
            "problems": len(manager.states.verify(deep=True).problems),
        }


if __name__ == "__main__":
    system, folder = sys.argv[1], Path(sys.argv[2])
    take_away(system, folder / "before")
    found: dict[str, Any] = {"modules": import_all()}
    found["used"] = use(folder / "store")
    found["synced"] = SYNCED[0]
    found["locks"] = getattr(sys.modules.get("msvcrt"), "calls", 0)
    print(json.dumps(found))
