"""The states of variants that are served: damage and forbidden content take the variant back."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from xenolect._chunking import source_of
from xenolect._json_text import text_pieces
from xenolect._keyring import of_keys
from xenolect._manifest import Content
from xenolect._schemas import STATE, broken_rule
from xenolect._state_versions import link_of
from xenolect._states import ReadReport, States
from xenolect._upload import Progress
from xenolect.errors import CorruptError, InvalidError
from xenolect.model import ProtocolVariant, StateRef

__all__ = ["GuardedStates"]


class GuardedStates(States):
    """``manager.states``: as ``States``, and what goes wrong with a state reaches the safeguards."""

    # set by the manager
    damaged: Callable[[str, CorruptError], None] = staticmethod(lambda *_: None)
    violated: Callable[[ProtocolVariant, str], None] = staticmethod(lambda *_: None)

    def put(
        self,
        variant: Any,
        state: Any,
        expected_version: int | None = None,
        progress: Progress = None,
    ) -> StateRef:
        """As ``States.put``; a state that breaks the variant's ``state_schema`` is an InvalidError,
        nothing of it is stored, and where the variant is served it is rolled back."""
        current = self._door.variant(variant)
        if STATE in current.metadata:
            words = _broken(current, state)
            if words:
                self.violated(current, words)
                self._door.settle()
                raise InvalidError(
                    f"the state of variant {current.id!r} breaks its state_schema: {words}; nothing was "
                    f"stored"
                )
        return super().put(variant, state, expected_version, progress)

    def get(self, variant: Any, version: int | None = None, progress: Progress = None) -> Any:
        """As ``States.get``."""
        with self._watched(variant, version):
            return super().get(variant, version, progress)

    def open(self, variant: Any, version: int | None = None) -> io.BufferedReader:
        """As ``States.open``."""
        with self._watched(variant, version):
            return super().open(variant, version)

    def read_into(
        self,
        variant: Any,
        buffer: Any,
        verify: str = "sha256",
        version: int | None = None,
        progress: Progress = None,
    ) -> ReadReport:
        """As ``States.read_into``."""
        with self._watched(variant, version):
            return super().read_into(variant, buffer, verify, version, progress)

    @contextmanager
    def _watched(self, variant: Any, version: int | None) -> Iterator[None]:
        """Damage that is met while reading the state a variant has now is told."""
        try:
            yield
        except CorruptError as error:
            variant_id = self._door.variant(variant).id
            head = self._versions.head(variant_id)
            value = self._versions.version(variant_id, version or head.version)
            if value is not None and value.get("manifest"):
                self._tell(variant_id, link_of(value), error)
            self._door.settle()
            raise

    def _fill(self, content: Content, position: int, target: memoryview, tag: bool = False) -> bool:
        try:  # readers that are open still come this way
            return super()._fill(content, position, target, tag)
        except CorruptError as error:
            self._tell(content.manifest.variant_id, content.link, error)
            raise

    def _tell(self, variant_id: str, link: Any, error: CorruptError) -> None:
        now = self._versions.head(variant_id).value
        if now and now.get("manifest") and link_of(now) == link and not of_keys(error):
            self.damaged(variant_id, error)


def _broken(variant: ProtocolVariant, state: Any) -> str:
    """What the state breaks of its schema, as it would come back; InvalidError for what is no JSON."""
    if source_of(state).kind != "json":
        return "$: bytes and files are not the JSON value that the schema describes"
    return broken_rule(variant.metadata[STATE], json.loads(b"".join(text_pieces(state))))
