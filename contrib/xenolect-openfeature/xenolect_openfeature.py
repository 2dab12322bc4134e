"""An OpenFeature provider: programs that evaluate flags get the variant their agent should speak.

A flag's key is a protocol (``"wire"``: the variant's whole ``changes``, or its id for text), or a path
into the variant's changes (``"wire:encoding"``). The targeting key is the agent, attributes are what it
can do. An evaluation never raises: whatever goes wrong, the default comes back with an error code.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any

from openfeature.evaluation_context import EvaluationContext
from openfeature.event import ProviderEventDetails
from openfeature.exception import ErrorCode
from openfeature.flag_evaluation import FlagResolutionDetails, Reason
from openfeature.provider import AbstractProvider, Metadata
from openfeature.track import TrackingEventDetails

from xenolect import (
    Agent,
    AgentContext,
    AgentNotFoundError,
    EmergenceError,
    EmergenceManager,
    NoCompatibleVariantError,
    Selection,
)
from xenolect.events import Event

__all__ = ["XenolectProvider"]

log = logging.getLogger("xenolect.openfeature")

_REASONS = {
    "canary": Reason.SPLIT,
    "control": Reason.SPLIT,
    "baseline": Reason.STATIC,
    "only": Reason.STATIC,
    "default": Reason.DEFAULT,
}  # any other choice was made for this agent: TARGETING_MATCH
_CHANGED = ("variant.", "canary.", "mode.", "safe_mode.", "breaker.")
_READABLE = (bool, int, float, str, list, tuple, Mapping, datetime)  # any other is no capability
_OF_THE_CONTEXT = ("version", "platform", "preferences", "session")  # any other is a capability


class XenolectProvider(AbstractProvider):
    """Evaluates flags by selecting variants of ``manager``; tracking reports what came of it.

    ``stale_check``: seconds between looks whether this process still hears of changes; 0 for never.
    Closing the manager stays its owner's business.
    """

    def __init__(self, manager: EmergenceManager, *, stale_check: float = 1.0) -> None:
        super().__init__()
        self._manager = manager
        self._every = stale_check
        self._unlisten: Callable[[], None] | None = None
        self._over = threading.Event()
        self._watch: threading.Thread | None = None
        self._stale = False  # kept by the watch: asking is no part of an evaluation

    def get_metadata(self) -> Metadata:
        """The provider's name."""
        return Metadata("xenolect")

    # -- life -----------------------------------------------------------------------------------------

    def initialize(self, evaluation_context: EvaluationContext) -> None:
        """Begin to hear of changes; the SDK says "ready" when this returns."""
        self.shutdown()
        self._over = threading.Event()
        self._unlisten = self._manager.on(self._heard)
        if self._every > 0:
            self._watch = threading.Thread(
                target=self._follow, args=(self._over,), name="xenolect-openfeature", daemon=True
            )
            self._watch.start()

    def shutdown(self) -> None:
        """Hear no more; twice is fine."""
        self._over.set()
        if self._unlisten is not None:
            self._unlisten()
            self._unlisten = None
        watch, self._watch = self._watch, None
        if watch is not None and watch is not threading.current_thread():
            watch.join(10)

    def _heard(self, event: Event) -> None:
        if not event.kind.startswith(_CHANGED):
            return
        flags = None
        if event.variant_id is not None:
            try:
                flags = [self._manager.variants.get(event.variant_id).protocol]
            except EmergenceError:
                pass
        self.emit_provider_configuration_changed(
            ProviderEventDetails(
                flags_changed=flags, message=event.kind, metadata={"revision": event.revision}
            )
        )

    def _follow(self, over: threading.Event) -> None:
        """Say when this process hears nothing of the others any more, and when it does again."""
        while not over.wait(self._every):
            try:
                now = bool(self._manager.status()["stale"])
            except EmergenceError as error:
                log.warning("the provider can not ask the manager: %s", error)
                now = True
            was, self._stale = self._stale, now
            if now and not was:
                self.emit_provider_stale(
                    ProviderEventDetails(message="changes are not heard; no canaries are served")
                )
            elif was and not now:
                self.emit_provider_ready(ProviderEventDetails(message="changes are heard again"))

    # -- evaluating -------------------------------------------------------------------------------------

    def resolve_boolean_details(
        self,
        flag_key: str,
        default_value: bool,
        evaluation_context: EvaluationContext | None = None,
    ) -> FlagResolutionDetails[bool]:
        """A boolean within the chosen variant's changes."""
        return self._resolve(flag_key, default_value, evaluation_context, (bool,))

    def resolve_string_details(
        self,
        flag_key: str,
        default_value: str,
        evaluation_context: EvaluationContext | None = None,
    ) -> FlagResolutionDetails[str]:
        """Text within the chosen variant's changes; for a protocol alone, the variant's id."""
        return self._resolve(flag_key, default_value, evaluation_context, (str,))

    def resolve_integer_details(
        self,
        flag_key: str,
        default_value: int,
        evaluation_context: EvaluationContext | None = None,
    ) -> FlagResolutionDetails[int]:
        """A whole number within the chosen variant's changes."""
        return self._resolve(flag_key, default_value, evaluation_context, (int,))

    def resolve_float_details(
        self,
        flag_key: str,
        default_value: float,
        evaluation_context: EvaluationContext | None = None,
    ) -> FlagResolutionDetails[float]:
        """A number within the chosen variant's changes."""
        return self._resolve(flag_key, default_value, evaluation_context, (float, int))

    def resolve_object_details(
        self,
        flag_key: str,
        default_value: Sequence[Any] | Mapping[str, Any],
        evaluation_context: EvaluationContext | None = None,
    ) -> FlagResolutionDetails[Any]:
        """The chosen variant's changes, or an object or array within them."""
        return self._resolve(flag_key, default_value, evaluation_context, (Mapping, list, tuple))

    def _resolve(
        self,
        flag_key: str,
        default: Any,
        context: EvaluationContext | None,
        types: tuple[type, ...],
    ) -> FlagResolutionDetails[Any]:
        try:
            agent, session = self._agent(context)
            if agent is None:
                return _failed(
                    default,
                    ErrorCode.TARGETING_KEY_MISSING,
                    "give the agent's id as the targeting key",
                )
            protocol, _, path = flag_key.partition(":")
            chosen = self._manager.select(agent, protocol, session)
            return self._answer(chosen, path, default, types)
        except NoCompatibleVariantError as error:
            code = ErrorCode.GENERAL if error.excluded else ErrorCode.FLAG_NOT_FOUND
            return _failed(default, code, str(error))
        except Exception as error:  # a program must go on whatever is wrong here
            log.warning("flag %r falls back to its default: %s", flag_key, error)
            return _failed(default, ErrorCode.GENERAL, f"{type(error).__name__}: {error}")

    def _answer(
        self, chosen: Selection, path: str, default: Any, types: tuple[type, ...]
    ) -> FlagResolutionDetails[Any]:
        variant = chosen.variant
        value: Any = variant.id if not path and str in types else variant.changes
        for name in path.split(".") if path else ():
            if not isinstance(value, Mapping) or name not in value:
                return _failed(
                    default, ErrorCode.FLAG_NOT_FOUND, f"variant {variant.id!r} has no {path!r}"
                )
            value = value[name]
        if not isinstance(value, types) or (isinstance(value, bool) and bool not in types):
            return _failed(
                default,
                ErrorCode.TYPE_MISMATCH,
                f"{path or 'the whole'} of variant {variant.id!r} is {type(value).__name__}",
            )
        reason = str(chosen.reason)
        return FlagResolutionDetails(
            value=value,
            variant=variant.id,
            reason=Reason.STALE if self._stale else _REASONS.get(reason, Reason.TARGETING_MATCH),
            flag_metadata={
                "score": float(chosen.score or 0.0),
                "canary": reason == "canary",
                "version": variant.version,
                "xenolect.reason": reason,
            },
        )

    def _agent(self, context: EvaluationContext | None) -> tuple[Agent | str | None, str | None]:
        """The agent as registered, or as the context describes it; and its conversation."""
        key = context.targeting_key if context is not None else None
        if context is None or not key:
            return None, None
        given = dict(context.attributes)
        session = given.get("session")
        words = None if session is None else str(session)
        try:
            self._manager.agents.get(key)
            return key, words
        except AgentNotFoundError:
            pass
        preferences = given.get("preferences")
        described = AgentContext(
            {
                name: value.isoformat() if isinstance(value, datetime) else value
                for name, value in given.items()
                if name not in _OF_THE_CONTEXT and isinstance(value, _READABLE)
            },
            preferences=preferences if isinstance(preferences, Mapping) else {},
            version=str(given.get("version", "")),
            platform=str(given.get("platform", "")),
        )
        return Agent(key, described), words

    # -- tracking ---------------------------------------------------------------------------------------

    def track(
        self,
        tracking_event_name: str,
        evaluation_context: EvaluationContext | None = None,
        tracking_event_details: TrackingEventDetails | None = None,
    ) -> None:
        """One operation of the agent, by the name of its protocol: the value is its latency in ms.

        ``details.attributes``: ``success`` (True where missing), ``variant`` (else the one selected now);
        any other number is a custom metric. Never raises; what can not be counted is logged.
        """
        try:
            agent, session = self._agent(evaluation_context)
            if agent is None:
                log.warning("track(%r) names no agent: give a targeting key", tracking_event_name)
                return
            given = dict(tracking_event_details.attributes) if tracking_event_details else {}
            latency = tracking_event_details.value if tracking_event_details else None
            variant = given.pop("variant", None)
            success = bool(given.pop("success", True))
            if variant is None:
                variant = self._manager.select(agent, tracking_event_name, session)
            custom = {
                name: float(value)
                for name, value in given.items()
                if isinstance(value, (int, float)) and not isinstance(value, bool)
            }
            self._manager.report(
                variant,
                agent if isinstance(agent, str) else agent.id,
                success,
                None if latency is None else float(latency),
                session,
                custom,
            )
        except Exception as error:
            log.warning("track(%r) is not counted: %s", tracking_event_name, error)


def _failed(default: Any, code: ErrorCode, words: str) -> FlagResolutionDetails[Any]:
    return FlagResolutionDetails(
        value=default, reason=Reason.ERROR, error_code=code, error_message=words
    )
