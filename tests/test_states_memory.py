"""Memory: a stream's size is bounded by the disk, not by what is free in memory."""

import subprocess
import sys
import textwrap

import pytest

CHILD = """
    import hashlib, io, os, random, resource, secrets, sys
    from pathlib import Path
    from xenolect import EmergenceManager

    MIB = 1024 * 1024
    place, count, text = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3] == "text"
    (place / "key").write_text(secrets.token_hex(32))
    block = random.Random(1).randbytes(MIB)
    if text:
        block = block[: MIB // 2].hex().encode()

    class Stream(io.RawIOBase):
        at = 0
        def readable(self):
            return True
        def readinto(self, buffer):
            if self.at == count:
                return 0
            whole = self.at.to_bytes(8, "big") + block[8:]
            assert len(buffer) >= MIB
            buffer[:MIB] = whole
            self.at += 1
            return MIB

    def peak():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024

    with EmergenceManager.open(
        place / "store", cipher={"use": "aes-gcm", "keys": {"file": str(place / "key")}}
    ) as manager:
        manager.variants.propose("warm", {}, id="warm")
        manager.variants.propose("big", {}, id="big")
        manager.states.put("warm", block)
        with manager.states.open("warm") as reader:
            assert reader.read(5) == block[:5]
        before = peak()
        ref = manager.states.put("big", Stream())
        stored = peak()
        assert ref.size == count * MIB
        with manager.states.open("big") as reader:
            for i in range(count):
                assert reader.read(MIB) == i.to_bytes(8, "big") + block[8:]
            assert reader.read() == b""
        print(before, stored - before, peak() - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="the peak is read from getrusage")
@pytest.mark.parametrize("kind", ["random", "text"])
def test_a_stream_of_a_gibibyte_takes_little_memory(tmp_path, kind):
    """Put from a file object and read back through a reader, encrypted: at most 64 MiB above before."""
    command = [sys.executable, "-c", textwrap.dedent(CHILD), str(tmp_path), "1024", kind]

    done = subprocess.run(command, capture_output=True, text=True, timeout=1800)

    assert done.returncode == 0, done.stderr
    before, storing, all_in_all = map(int, done.stdout.split())
    print(f"{before} MiB before, {storing} MiB more for put, {all_in_all} MiB more with reading")
    assert storing <= 64
    assert all_in_all <= 64
