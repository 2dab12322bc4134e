"""Stepping a rollout's ramp again, from its documents and its observations."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from xenolect import safeguards as sg
from xenolect._evidence import ENDED, event_from_json, is_strong
from xenolect.facts import Observation, canonical
from xenolect.interfaces import Safeguard
from xenolect.judges import Evidence
from xenolect.model import CanaryState, Verdict

__all__ = ["Stepping"]

FIELDS = (
    "rollout",
    "variant_id",
    "salt",
    "levels",
    "unit",
    "judge",
    "ramp",
    "baseline",
    "guardrails",
)
"""What no step of a rollout may change."""


class Stepping:
    """A ramp that is stepped from document to document of one rollout."""

    def __init__(
        self, ramp: Safeguard[Any], first: Mapping[str, Any], stored: Sequence[Observation]
    ) -> None:
        self._ramp = ramp
        self._first = first
        self._stored = stored
        self._state = ramp.start()
        self._before: Mapping[str, Any] | None = None

    def take(self, document: Mapping[str, Any]) -> Iterator[str]:
        """What is wrong with the next document, in words: its state must be the ramp's answer to the
        event stored with it."""
        for name in FIELDS:
            if document.get(name) != self._first.get(name):
                yield f"its {name} changed while it ran"
        state, before = self._state, self._before
        after = self._ramp.load(document["state"])
        made = document.get("step")
        if before is not None and made is not None and made == before.get("step"):
            if after != state:  # a document that only says what came later
                yield "its state changed without an event"
            self._before = document
            return
        wanted = canonical(document["state"])
        names = set(document["state"])  # a field that a later release added is not compared
        if made is not None:
            event = event_from_json(made)
            yield from _gates(event, document, self._stored)
            reached = [self._ramp.dump(self._ramp.step(state, event, made["at"], made["draw"])[0])]
        else:
            reached = _reachable(self._ramp, state, document)
        if not any(
            canonical({n: v for n, v in each.items() if n in names}) == wanted for each in reached
        ):
            yield (
                f"no event leads from {_brief(state)} to {_brief(after)}"
                if made is None
                else f"{made['event']} leads from {_brief(state)} to something else than "
                f"{_brief(after)}"
            )
        self._state, self._before = after, document


def _reachable(
    ramp: Safeguard[Any], state: Any, document: Mapping[str, Any]
) -> list[Mapping[str, Any]]:
    """What the ramp can become by any event, where none was stored."""
    at = max(document["changed_at"], document["started_at"])
    return [
        ramp.dump(state),
        *(ramp.dump(ramp.step(state, event, at, 0.5)[0]) for event in _events(document)),
    ]


def _gates(
    event: sg.Event, document: Mapping[str, Any], stored: Sequence[Observation]
) -> Iterator[str]:
    """Was the event what the evidence allowed?"""
    if not isinstance(event, sg.Check):
        return
    if str(event.verdict) != document["verdict"]:
        yield "the check had another verdict than the judge"
    if event.strong and not is_strong(Evidence(**document["evidence"])):
        yield "the check saw more evidence than there was"
    sequence = document["sequence"]
    operations = sum(
        each.operations for each in stored if each.sequence <= sequence and each.arm == "canary"
    )
    if event.sampled and operations < document["min_operations"]:
        yield (
            f"the check counted enough operations, but {operations} are stored and "
            f"{document['min_operations']} are needed"
        )


def _brief(state: Any) -> str:
    return f"{state.state} at level {state.level} ({state.ppm} ppm)"


def _events(document: Mapping[str, Any]) -> Iterator[sg.Event]:
    """Every event that can have made a document in which none is stored."""
    verdict = Verdict(document["verdict"])
    reason = document.get("reason") or document["state"]["reason"]
    ended = document["state"]["state"] in ENDED
    yield sg.Start()
    for quiet in (True, False):
        for sampled in (True, False):
            for clean in (True, False):
                for missing in ("", document["state"]["reason"]):
                    yield sg.Check(verdict, not missing, sampled, quiet, clean, missing)
    for news in ("open", "closed", "latched"):
        yield sg.BreakerNews(news)
        yield sg.BreakerNews(news, control_shut=True)
    yield from (
        sg.Pause(),
        sg.Resume(),
        sg.Promote(True),
        sg.Promote(False, force=True),
        sg.Abort(),
    )
    if ended and document["state"]["state"] == CanaryState.ROLLED_BACK:
        yield sg.Proved(reason)
