"""Crashes on purpose: an act, played in a process that dies, or is told of an error, at its k-th system call.

Linux with strace only. A kill falls before its call is done, so kills at every call leave every state
of the disk that a process which dies can leave; a power failure may also lose what was not synced, and
``SystemCall`` records show whether it was.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import ClassVar

import attrs

__all__ = ["Crash", "CrashSweep", "Stage", "SystemCall"]

_LINE = re.compile(r"(?P<thread>\d+) +(?P<name>\w+)\((?P<rest>.*)")
_RESUMED = re.compile(r"(?P<thread>\d+) +<\.\.\. (?P<name>\w+) resumed>(?P<rest>.*)")
_UNFINISHED = " <unfinished ...>"
_TRACE_ANYBODY = (0x59616D61, 2**64 - 1)  # PR_SET_PTRACER, PR_SET_PTRACER_ANY of linux/prctl.h


class Stage:
    """The act's end: where the calls that count begin, and what was promised to a caller."""

    def __init__(self, tell: Callable[[object], None], wait: Callable[[], object]) -> None:
        self._tell = tell
        self._wait = wait

    def begin(self) -> None:
        """From here on calls count: what opened the store before is not what is played."""
        self._tell({"begin": os.getpid()})
        self._wait()

    def acknowledge(self, what: str) -> None:
        """Tell that something is promised now: it may never be lost from here on."""
        self._tell({"told": what})


Act = Callable[[Path, Stage], object]


@attrs.frozen
class SystemCall:
    """One call of a traced act: its thread, its name, arguments and result as strace writes them."""

    thread: int
    name: str
    text: str

    @property
    def failed(self) -> bool:
        """Did the kernel refuse it?"""
        return ") = -1 " in self.text


@attrs.frozen
class Crash:
    """What an act left: ``place`` is its directory, ``told`` what it acknowledged, ``raised`` the classes
    of what came out of it, from the first to ``BaseException``, and ``message`` its words.

    ``call`` and ``number``: the ``number``-th ``call`` of one of its threads was the last, or failed.
    """

    place: Path
    call: str
    number: int
    killed: bool
    told: tuple[str, ...]
    raised: tuple[str, ...] = ()
    message: str = ""

    def __str__(self) -> str:
        return (
            f"{'killed at' if self.killed else 'after'} {self.call} {self.number}, told {self.told}"
        )


class CrashSweep:
    """Plays an act again and again, each time on a copy of ``origin``, and stops it somewhere else::

        def act(place, stage):
            store = MyStore(place)
            stage.begin()
            store.put("key", b"new")
            stage.acknowledge("put")

        for crash in CrashSweep(act, origin, tmp_path).kills():
            found = MyStore(crash.place).get("key")
            assert found == b"new" if crash.told else found in (b"old", b"new")

    The process is a fork of this one, so nothing of ``origin`` may be open here. Calls are counted per
    thread and name, as strace does. RuntimeError without strace: ``missing()`` says what is.
    """

    WRITING: ClassVar[frozenset[str]] = frozenset(
        ("creat", "fallocate", "fdatasync", "fsync", "ftruncate", "link", "linkat", "mkdir", "mkdirat",
         "msync", "open", "openat", "pwrite64", "pwritev", "rename", "renameat", "renameat2", "rmdir",
         "symlink", "sync_file_range", "truncate", "unlink", "unlinkat", "write", "writev")
    )  # fmt: skip
    """Calls that change what is on the disk: a kill at any other leaves what one at the next of these does."""

    def __init__(self, act: Act, origin: Path, work: Path, *, timeout: float = 60.0) -> None:
        problem = self.missing()
        if problem:
            raise RuntimeError(problem)
        self.act = act
        self.origin = origin
        self.work = work
        self.timeout = timeout
        self._run = 0

    @staticmethod
    def missing() -> str:
        """Why nothing can be swept on this machine, and what to do; "" where it can."""
        if not sys.platform.startswith("linux"):
            return f"crash sweeps need Linux, and this is {sys.platform}"
        if shutil.which("strace") is None:
            return "crash sweeps need strace, and it is not there: install it (apt install strace)"
        done = subprocess.run(
            ["strace", "-o", os.devnull, "true"], capture_output=True, text=True, check=False
        )
        return f"crash sweeps need strace, and it may not trace: {done.stderr.strip()}" * bool(
            done.returncode
        )

    # -- what is played ---------------------------------------------------------------------------

    def trace(self) -> tuple[Crash, list[SystemCall]]:
        """Play the act undisturbed: what it left, and every call it made, in the order of their ends."""
        log = self.work / "trace.txt"
        crash = self._play("", 0, ["-y", "-s", "64", "-o", str(log)])
        return crash, _calls(log.read_text(errors="replace"))

    def counts(self) -> dict[str, int]:
        """How often the busiest thread makes each call."""
        each = Counter((call.thread, call.name) for call in self.trace()[1])
        found: dict[str, int] = {}
        for (_, name), count in each.items():
            found[name] = max(count, found.get(name, 0))
        return found

    def kills(self, calls: Collection[str] | None = None, *, stride: int = 1) -> Iterator[Crash]:
        """Kill it at each call (of these names), or at every ``stride``-th. What was left is removed when
        the next one is asked for."""
        yield from self._sweep("signal=KILL", calls, stride)

    def errors(
        self, error: str, calls: Collection[str], *, stride: int = 1, lasting: bool = False
    ) -> Iterator[Crash]:
        """Let each call of these names fail with an error such as "EIO" without being done. ``lasting``:
        and all of that name after it. What the act tells is not befallen."""
        yield from self._sweep(f"error={error}", calls, stride, "+" if lasting else "")

    def _sweep(
        self, fault: str, calls: Collection[str] | None, stride: int, more: str = ""
    ) -> Iterator[Crash]:
        for name, count in sorted(self.counts().items()):
            if calls is not None and name not in calls:
                continue
            for number in range(1, count + 1, stride):
                inject = f"inject={name}:{fault}:when={number}{more}"
                crash = self._play(
                    name, number, ["-o", os.devnull, "-e", f"trace={name}", "-e", inject]
                )
                yield crash
                shutil.rmtree(crash.place)

    # -- one process ------------------------------------------------------------------------------

    def _play(self, call: str, number: int, options: Sequence[str]) -> Crash:
        self._run += 1
        place = self.work / f"run-{self._run}"
        shutil.copytree(self.origin, place)
        # A socket: errors that befall write(2) and read(2) do not befall what the act tells.
        here, there = socket.socketpair()
        here.settimeout(self.timeout)
        pid = os.fork()
        if not pid:
            here.close()
            _child(self.act, place, there)
        there.close()
        answers = []
        try:
            with here, here.makefile() as lines:
                # An act that never begins answers with what it raised, or with nothing.
                answers.append(json.loads(lines.readline() or '{"raised": ["nothing"]}'))
                if "begin" not in answers[0]:
                    raise RuntimeError(f"the act did not come to its stage.begin(): {answers[0]}")
                with _strace(pid, options):
                    here.send(b"\n")
                    with contextlib.suppress(ConnectionResetError):  # killed before it heard us
                        answers.extend(json.loads(line) for line in lines if line.endswith("\n"))
        except BaseException:
            os.kill(pid, signal.SIGKILL)
            raise
        finally:
            status = os.waitpid(pid, 0)[1]
        end = answers[-1]
        return Crash(
            place,
            call,
            number,
            os.WIFSIGNALED(status),
            tuple(each["told"] for each in answers if "told" in each),
            tuple(end.get("raised", ())),
            end.get("message", ""),
        )


def _child(act: Act, place: Path, told: socket.socket) -> None:
    """Play it, and end without a word to anybody else: this is a fork."""
    import ctypes

    def tell(answer: object) -> None:
        told.sendall(json.dumps(answer).encode() + b"\n")

    try:
        ctypes.CDLL(None).prctl(*map(ctypes.c_ulong, _TRACE_ANYBODY), 0, 0, 0)
        act(place, Stage(tell, lambda: told.recv(1)))
    except BaseException as error:
        names = [f"{each.__module__}.{each.__qualname__}" for each in type(error).__mro__]
        tell({"raised": names, "message": str(error)})
    finally:
        os._exit(0)


class _strace:  # noqa: N801  a verb
    """strace on a process, from when it is attached until the process is gone."""

    def __init__(self, pid: int, options: Sequence[str]) -> None:
        self._process = subprocess.Popen(
            ["strace", "-f", "-p", str(pid), *options], stderr=subprocess.PIPE, text=True
        )

    def __enter__(self) -> None:
        assert self._process.stderr is not None
        line = self._process.stderr.readline()
        if "attached" not in line:
            self._process.kill()
            self._process.wait()
            raise RuntimeError(f"strace can not attach: {line.strip()}")

    def __exit__(self, *error: object) -> None:
        if any(error):
            self._process.kill()
        self._process.communicate()


def _calls(log: str) -> list[SystemCall]:
    """The calls of a log, each with its result, ordered by when that was known."""
    calls: list[SystemCall] = []
    begun: dict[tuple[str, str], str] = {}
    for line in log.splitlines():
        if match := _RESUMED.match(line):
            thread, name = match["thread"], match["name"]
            text = begun.pop((thread, name), "") + match["rest"]
        elif match := _LINE.match(line):
            thread, name, text = match["thread"], match["name"], match["rest"]
            if text.endswith(_UNFINISHED):
                begun[thread, name] = text.removesuffix(_UNFINISHED)
                continue
        else:
            continue
        calls.append(SystemCall(int(thread), name, text))
    calls.extend(SystemCall(int(thread), name, text) for (thread, name), text in begun.items())
    return calls
