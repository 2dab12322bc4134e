"""How far a judge is trusted: what it answers is checked, what it raises is put into words.

A judge may be anybody's. Its verdict decides who is promoted and who is taken back, and its evidence
is stored; so neither garbage nor an exception may reach the ramp, or keep a rollback from its commit.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import attrs

from xenolect.facts import Observation, canonical
from xenolect.interfaces import Judge
from xenolect.judges import Baseline, Evidence, JudgeConfig
from xenolect.model import Verdict

__all__ = ["LateJudge", "Proves", "answer_of", "evidence_to_json", "words_of"]

Proves = Callable[[Any, Sequence[Observation]], bool]
_WORDS = 200  # characters of an error that are kept: it is stored with each health check


@attrs.define
class LateJudge:
    """A judge that is made when it is to begin: what making it raises is raised by ``start``."""

    make: Callable[[], Judge[Any]]
    inner: Judge[Any] | None = None

    def start(self, baseline: Baseline, config: JudgeConfig) -> Any:
        """Make the judge, unless it is made, and begin."""
        if self.inner is None:
            self.inner = self.make()
        return self.inner.start(baseline, config)

    @property
    def proves(self) -> Proves | None:
        """How the judge tells harm alone, if it can; only after ``start``."""
        return getattr(self.inner, "proves", None)

    def update(self, state: Any, records: Sequence[Observation]) -> tuple[Verdict, Evidence]:
        """What the judge says; only after ``start``."""
        assert self.inner is not None
        return self.inner.update(state, records)


def words_of(error: Exception) -> str:
    """One line about an error, whatever its text is."""
    try:
        text = " ".join(str(error).encode("utf-8", "replace").decode().split())
    except Exception:
        text = "(no words)"
    return f"{type(error).__name__}: {text}"[:_WORDS]


def answer_of(answer: Any) -> tuple[Verdict, Evidence]:
    """A judge's answer; TypeError or ValueError for what is none."""
    if not isinstance(answer, tuple) or len(answer) != 2:
        raise TypeError(f"update answered {type(answer).__name__}, not (verdict, evidence)")
    verdict, evidence = answer
    if not isinstance(verdict, Verdict) or not isinstance(evidence, Evidence):
        raise TypeError(
            f"update answered ({type(verdict).__name__}, {type(evidence).__name__}), "
            f"not (Verdict, Evidence)"
        )
    e_value, well = evidence.e_value, evidence.noninferiority
    if not (math.isfinite(e_value) and math.isfinite(well)):
        raise ValueError(f"its evidence is not finite: {e_value!r}, {well!r}")
    return verdict, evidence


def evidence_to_json(evidence: Evidence) -> dict[str, Any]:
    """Evidence as the document that is stored; what is not JSON in it is left out, and named."""
    try:
        document = attrs.asdict(evidence)
        canonical(document).encode()
    except (TypeError, ValueError, RecursionError):
        document, lost = {}, []
        for field in attrs.fields(Evidence):
            value = getattr(evidence, field.name)
            try:
                canonical(value).encode()
            except (TypeError, ValueError, RecursionError):
                lost.append(field.name)
                continue
            document[field.name] = value
        document["detail"] = {"left out": lost}
    return document
