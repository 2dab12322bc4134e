"""``KeyProviderTests``: what everything that wraps keys must do."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from typing import ClassVar

import pytest

from xenolect.errors import CorruptError, EmergenceError, NotFoundError
from xenolect.interfaces import KeyProvider

__all__ = ["KeyProviderTests"]

KEY = bytes(range(100, 132))
BOUND = b'{"id":"0f0e","scope":"variant/zstd","store":"abcd"}'


class KeyProviderTests(ABC):
    """Subclass it with ``make`` and ``rotated``; every ``test_`` method then runs against your provider.

    ``flips`` is how many bits of what is wrapped are turned round, each in a call of its own; lower it
    for a service. ``refusals``: what is raised for them and for another key, for a service
    that can not tell a changed reference to a key from one that the caller has no right to.
    """

    flips: ClassVar[int] = 1000
    refusals: ClassVar[tuple[type[EmergenceError], ...]] = (CorruptError,)

    @abstractmethod
    def make(self) -> KeyProvider:
        """The provider, as another process would make it."""

    @abstractmethod
    def rotated(self) -> KeyProvider:
        """The same with another key to wrap with; the one of ``make()`` still unwraps."""

    def test_a_key_comes_back(self) -> None:
        """Wrapped by one process and unwrapped by another, as the current key and by its id; what is
        wrapped does not show the key, and is never the same."""
        kek, wrapper = self.make().current()
        wrapped = wrapper.wrap(KEY, BOUND)
        assert type(wrapped) is bytes
        again, other = self.make().current()
        assert again == kek
        assert other.unwrap(wrapped, BOUND) == KEY
        assert self.make().get(kek).unwrap(wrapped, BOUND) == KEY
        assert KEY not in wrapped
        assert wrapper.wrap(KEY, BOUND) != wrapped

    def test_its_id_can_be_written_down(self) -> None:
        """1 to 2048 printable ASCII characters."""
        kek, _ = self.make().current()
        assert 1 <= len(kek) <= 2048
        assert kek.isascii()
        assert kek.isprintable()

    def test_after_rotation_both_keys_unwrap(self) -> None:
        """The new key has another id and wraps; what the former one wrapped is found by its id."""
        former, wrapper = self.make().current()
        wrapped = wrapper.wrap(KEY, BOUND)
        provider = self.rotated()
        kek, current = provider.current()
        assert kek != former
        assert provider.get(former).unwrap(wrapped, BOUND) == KEY
        assert provider.get(kek).unwrap(current.wrap(KEY, BOUND), BOUND) == KEY
        with pytest.raises(self.refusals):
            current.unwrap(wrapped, BOUND)
        with pytest.raises(self.refusals):
            wrapper.unwrap(current.wrap(KEY, BOUND), BOUND)

    def test_an_unknown_id_is_not_found(self) -> None:
        """Also that of a key which exists, and which this provider was not given."""
        kek, _ = self.rotated().current()
        for unknown in (kek, "no-such-key"):
            with pytest.raises(NotFoundError):
                self.make().get(unknown)

    def test_another_place_is_refused(self) -> None:
        """A wrapped key that was put in the place of another one."""
        _, wrapper = self.make().current()
        wrapped = wrapper.wrap(KEY, BOUND)
        for wrong in (BOUND + b" ", BOUND[:-1], b"", BOUND.replace(b"zstd", b"json")):
            with pytest.raises(CorruptError):
                wrapper.unwrap(wrapped, wrong)

    def test_what_was_changed_is_refused(self) -> None:
        """Flipped bits all over it, and every kind of cut."""
        _, wrapper = self.make().current()
        wrapped = wrapper.wrap(KEY, BOUND)
        bits = len(wrapped) * 8
        for bit in range(0, bits, max(1, bits // self.flips)):
            wrong = bytearray(wrapped)
            wrong[bit // 8] ^= 1 << bit % 8
            with pytest.raises(self.refusals):
                wrapper.unwrap(bytes(wrong), BOUND)
        for cut in (wrapped[:-1], wrapped[1:], b"", wrapped + b"\0", os.urandom(len(wrapped))):
            with pytest.raises(self.refusals):
                wrapper.unwrap(cut, BOUND)

    def test_a_provider_shows_no_key(self) -> None:
        """Representations end in logs and tracebacks."""
        provider = self.make()
        _, wrapper = provider.current()
        wrapper.wrap(KEY, BOUND)
        for shown in (repr(provider), repr(wrapper)):
            for secret in self.secrets():
                assert secret not in shown

    def secrets(self) -> list[str]:
        """Texts that must not be seen: keys, passwords, credentials."""
        return []
