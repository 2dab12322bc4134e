"""How deployments ended: counted by variant, in the commit that ends them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from xenolect.facts import Fact, Put

if TYPE_CHECKING:
    from xenolect._runtime import Runtime

__all__ = ["MONTH", "outcome", "outcomes"]

KIND = "outcomes"
WORDS = ("promoted", "rolled_back", "aborted")
MONTH = 30 * 86400.0
_MOST = 100  # times of rollbacks that are kept


def outcome(runtime: Runtime, variant_id: str, word: str) -> Put:
    """The change that counts one more end: "promoted", "rolled_back" or "aborted"."""
    value = dict(runtime.value(KIND, variant_id) or {})
    value[word] = value.get(word, 0) + 1
    if word == "rolled_back":
        value["rolled_back_at"] = [*value.get("rolled_back_at", ()), runtime.clock()][-_MOST:]
    return Put(KIND, variant_id, value)


def outcomes(facts: Mapping[tuple[str, str], Fact], now: float) -> dict[str, Any]:
    """All of them: counts, the share that was promoted, and rollbacks within 30 days.

    A promotion that is rolled back later counts as both.
    """
    found: dict[str, Any] = dict.fromkeys(WORDS, 0)
    lately = 0
    for (kind, variant_id), fact in list(facts.items()):
        if kind == KIND and fact.value is not None:
            for word in WORDS:
                found[word] += fact.value.get(word, 0)
            lately += sum(at > now - MONTH for at in fact.value.get("rolled_back_at", ()))
        elif kind == "rollout" and fact.value is not None and (KIND, variant_id) not in facts:
            state = fact.value["state"]["state"]  # ended before outcomes were counted
            if fact.value.get("ended_at") is not None and state in found:
                found[state] += 1
                lately += state == "rolled_back" and fact.value["ended_at"] > now - MONTH
    total = sum(found[word] for word in WORDS)
    found["success_rate"] = found["promoted"] / total if total else None
    found["rollbacks_in_30_days"] = lately
    return found
