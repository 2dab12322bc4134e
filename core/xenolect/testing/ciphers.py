"""``CipherTests``: what everything that seals objects must do."""

from __future__ import annotations

import hmac
import os
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar, cast

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from xenolect.errors import CorruptError
from xenolect.interfaces import Buffer, BufferCipher, Cipher

__all__ = ["CipherTests"]

BOUND = b"header|store|variant|chunk_0.bin\0" + bytes(range(64))
SECRET = b"a secret that nobody may see "
SIZES = [0, 1, 15, 16, 17, 2047, 2048, 2049, 65_536, 1 << 20]


class CipherTests(ABC):
    """Subclass it with ``make``; every ``test_`` method then runs against your cipher.

    A cipher that is not secret and authenticates nothing must be called "none" and says so with
    ``authenticates = False``.
    """

    authenticates: ClassVar[bool] = True

    @abstractmethod
    def make(self) -> Cipher:
        """The cipher, as another process would make it: each opens what the others have sealed."""

    def stranger(self) -> Cipher | None:
        """The same cipher with another key; None where there are no keys."""
        return None

    def data_key(self) -> bytes | None:
        """The 32 bytes that ``make()`` seals with; only for one whose format is "aes-gcm"."""
        return None

    # -- what every cipher does -------------------------------------------------------------------

    def test_its_id_fits_into_a_header(self) -> None:
        """1 to 16 ASCII characters, always the same; "none" belongs to the one that seals nothing."""
        name = self.make().id
        assert 1 <= len(name.encode("ascii")) <= 16
        assert name == self.make().id
        assert (name == "none") == (not self.authenticates)

    @pytest.mark.parametrize("size", SIZES)
    def test_opens_what_was_sealed(self, size: int) -> None:
        """Every size around the borders of blocks and buffers, also by another process."""
        plain = (SECRET * (size // len(SECRET) + 1))[:size]
        sealed = self.make().seal(plain, BOUND)
        assert type(sealed) is bytes
        assert self.make().open(sealed, BOUND) == plain

    @settings(
        deadline=None,
        max_examples=60,
        suppress_health_check=[HealthCheck.differing_executors],
    )
    @given(plain=st.binary(max_size=200), bound=st.binary(max_size=200))
    def test_any_bytes_come_back(self, plain: bytes, bound: bytes) -> None:
        """Whatever is sealed, and whatever it is bound to."""
        assert self.make().open(self.make().seal(plain, bound), bound) == plain

    @pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
    def test_takes_every_buffer_and_keeps_none(self, kind: Callable[[bytes], Buffer]) -> None:
        """Arguments are as before; writing into them afterwards changes nothing that was returned; and
        a bytearray can grow again, which it can not while somebody holds a view of it."""
        cipher, plain = self.make(), SECRET * 100
        given_plain = kind(plain)
        sealed = cipher.seal(given_plain, BOUND)
        assert given_plain == plain
        given_sealed = kind(sealed)
        opened = cipher.open(given_sealed, BOUND)
        assert given_sealed == sealed
        for each in (given_plain, given_sealed):
            if isinstance(each, bytearray):
                each[:] = bytes(len(each))
                each.append(0)
        assert opened == plain
        assert cipher.open(sealed, BOUND) == plain

    def test_threads_share_it(self) -> None:
        """Four threads seal and open different contents with one cipher."""
        cipher, wrong = self.make(), list[int]()

        def work(number: int) -> None:
            plain = bytes([number]) * 5000
            for _ in range(50):
                if cipher.open(cipher.seal(plain, BOUND), BOUND) != plain:
                    wrong.append(number)

        threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert wrong == []

    def test_the_buffer_form_is_the_same(self) -> None:
        """Where it works in its caller's memory too: the same bytes, within the bounds, and zeros where
        nothing was opened."""
        made = self.make()
        if not hasattr(made, "seal_into"):
            return
        cipher, plain = cast("BufferCipher", made), SECRET * 100
        room = bytearray(b"\xee" * (len(plain) + cipher.overhead + 20))
        cipher.seal_into(plain, BOUND, memoryview(room)[10:-10])
        assert room[:10] == room[-10:] == b"\xee" * 10
        sealed = bytes(room[10:-10])
        assert cipher.open(sealed, BOUND) == plain
        assert len(cipher.seal(plain, BOUND)) == len(sealed)
        target = bytearray(b"\xee" * (len(plain) + 20))
        cipher.open_into(sealed, BOUND, memoryview(target)[10:-10])
        assert target == b"\xee" * 10 + plain + b"\xee" * 10
        damaged = sealed[:-1] + bytes([sealed[-1] ^ 1])
        with pytest.raises(CorruptError):
            cipher.open_into(damaged, BOUND, memoryview(target)[10:-10])
        assert not any(target[10:-10]) or target[10:-10] == plain  # never what was not checked

    def test_one_that_does_not_seal_says_so(self) -> None:
        """Then the bytes are as they are, which nobody takes for sealed."""
        if not self.authenticates:
            assert self.make().seal(SECRET, BOUND) == SECRET

    # -- what a cipher is for ---------------------------------------------------------------------

    def test_nothing_is_seen_and_no_seal_is_like_another(self) -> None:
        """The content is nowhere in what is sealed, and the same content sealed twice has nothing in
        common that would tell."""
        if not self.authenticates:
            return
        cipher = self.make()
        first, second = cipher.seal(SECRET * 4, BOUND), cipher.seal(SECRET * 4, BOUND)
        assert SECRET[:12] not in first
        assert first != second
        assert first[-64:] != second[-64:]

    def test_another_place_is_refused(self) -> None:
        """Every bit of ``bound`` counts, and so does its length."""
        if not self.authenticates:
            return
        cipher, sealed = self.make(), self.make().seal(SECRET, BOUND)
        for wrong in (*_flips(BOUND), BOUND[:-1], BOUND[1:], BOUND + b"\0", b""):
            with pytest.raises(CorruptError):
                cipher.open(sealed, wrong)

    def test_every_flipped_bit_is_refused(self) -> None:
        """In all of what is sealed."""
        if not self.authenticates:
            return
        cipher, sealed = self.make(), self.make().seal(SECRET, BOUND)
        for wrong in _flips(sealed):
            with pytest.raises(CorruptError):
                cipher.open(wrong, BOUND)

    def test_every_other_length_is_refused(self) -> None:
        """Cut short at every byte, from either end, and longer."""
        if not self.authenticates:
            return
        cipher, sealed = self.make(), self.make().seal(SECRET, BOUND)
        cuts = [sealed[:n] for n in range(len(sealed))] + [
            sealed[n:] for n in range(1, len(sealed))
        ]
        for wrong in (*cuts, sealed + b"\0", b"\0" + sealed, sealed + sealed):
            with pytest.raises(CorruptError):
                cipher.open(wrong, BOUND)

    def test_another_key_does_not_open(self) -> None:
        """Neither what it did not seal, nor the other way round."""
        stranger = self.stranger()
        if stranger is None:
            return
        with pytest.raises(CorruptError):
            stranger.open(self.make().seal(SECRET, BOUND), BOUND)
        with pytest.raises(CorruptError):
            self.make().open(stranger.seal(SECRET, BOUND), BOUND)

    @pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork on this system")
    def test_a_fork_does_not_repeat_itself(self) -> None:
        """Parent and child seal the same contents: no two results are the same."""
        if not self.authenticates:
            return
        cipher = self.make()
        cipher.seal(SECRET, BOUND)
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            try:
                os.close(reader)
                with os.fdopen(writer, "wb") as out:
                    out.writelines(cipher.seal(SECRET, BOUND) for _ in range(100))
            finally:
                os._exit(0)
        os.close(writer)
        ours = [cipher.seal(SECRET, BOUND) for _ in range(100)]
        with os.fdopen(reader, "rb") as source:
            data = source.read()
        os.waitpid(child, 0)
        size = len(ours[0])
        theirs = [data[n : n + size] for n in range(0, len(data), size)]
        assert len(theirs) == 100
        assert len({*ours, *theirs}) == 200

    def test_it_is_the_format_that_its_id_says(self) -> None:
        """For "aes-gcm", computed without the cipher: HKDF from HMAC alone, AES-GCM by the streaming
        interface; both ways."""
        key = self.data_key()
        if self.make().id != "aes-gcm":
            assert key is None
            return
        assert key is not None, "override data_key(): the format can not be checked without the key"
        plain = SECRET * 50
        sealed = self.make().seal(plain, BOUND)
        kid, salt, commitment = sealed[:16], sealed[16:40], sealed[40:72]
        made = expanded(key, salt, BOUND)
        assert commitment == made[44:]
        assert gcm(made[:32], made[32:44], sealed[72:-16], BOUND, sealed[-16:]) == plain
        salt = bytes(range(24))
        made = expanded(key, salt, BOUND)
        body, tag = gcm(made[:32], made[32:44], plain, BOUND, None)
        assert self.make().open(kid + salt + made[44:] + body + tag, BOUND) == plain


def expanded(key: bytes, salt: bytes, bound: bytes) -> bytes:
    """Key, nonce and commitment of an object in the format "aes-gcm": RFC 5869, section 2.3."""
    info = b"xenolect/aes-gcm/2" + salt + bound[-64:-32]
    first = hmac.digest(key, info + b"\1", "sha512")
    return (first + hmac.digest(key, first + info + b"\2", "sha512"))[:76]


def gcm(key: bytes, nonce: bytes, data: bytes, bound: bytes, tag: bytes | None) -> Any:
    """AES-GCM: decrypts and checks where there is a tag, else encrypts to the data and its tag."""
    from cryptography.hazmat.primitives.ciphers import Cipher as Primitive
    from cryptography.hazmat.primitives.ciphers import algorithms, modes

    primitive = Primitive(algorithms.AES(key), modes.GCM(nonce, tag))
    context = primitive.decryptor() if tag is not None else primitive.encryptor()
    context.authenticate_additional_data(bound)
    made = context.update(data) + context.finalize()
    return made if tag is not None else (made, cast("Any", context).tag)


def _flips(data: bytes) -> list[bytes]:
    """Every copy of ``data`` in which one bit is the other way round."""
    return [
        data[:at] + bytes([data[at] ^ 1 << bit]) + data[at + 1 :]
        for at in range(len(data))
        for bit in range(8)
    ]
