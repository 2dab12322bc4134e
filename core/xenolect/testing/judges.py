"""What every judge must keep, whatever its statistics: ``JudgeTests``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from xenolect.facts import Observation
from xenolect.interfaces import Judge
from xenolect.judges import Baseline, Evidence, JudgeConfig
from xenolect.model import Verdict

__all__ = ["JudgeTests"]

# One inherited test runs for many classes, each with a judge of its own: hypothesis asks about that.
_thorough = settings(
    deadline=None, max_examples=50, suppress_health_check=[HealthCheck.differing_executors]
)
_steps = st.lists(
    st.tuples(
        st.sampled_from(["canary", "control", "control"]),
        st.integers(0, 12),  # unit
        st.integers(1, 3),  # operations
        st.sampled_from([0, 0, 0, 1, 3]),  # failures, at most the operations
        st.sampled_from([0.0, 0.5, 7.0, 90.0, 700.0]),  # seconds since the one before
    ),
    max_size=80,
)


def _observations(steps: Sequence[tuple[str, int, int, int, float]]) -> list[Observation]:
    at = 0.0
    records = []
    for sequence, (arm, unit, operations, failures, pause) in enumerate(steps, 1):
        at += pause
        records.append(
            Observation(
                "rollout",
                arm,
                f"{arm}-{unit}",
                operations,
                min(failures, operations),
                at,
                latency_ms=10.0 + unit,
                sequence=sequence,
            )
        )
    return records


def _baseline() -> Baseline:
    units = {f"{arm}-{i}": (200 + i, i % 3) for arm in ("canary", "control") for i in range(10)}
    return Baseline(
        sum(n for n, _ in units.values()),
        sum(f for _, f in units.values()),
        units,
        ((58, 900), (60, 900), (62, 200)),
    )


class JudgeTests:
    """Inherit, and answer ``make`` with a new judge: ``class TestMine(JudgeTests): ...``."""

    def make(self) -> Judge[Any]:
        """A new judge, as its offer makes it with the default options."""
        raise AssertionError(f"{type(self).__name__} must define make(self) and return a judge")

    def judged(
        self, judge: Judge[Any], records: Sequence[Observation]
    ) -> tuple[Any, Verdict, Evidence]:
        """The state, verdict and evidence after the records, one update per record."""
        state = judge.start(_baseline(), JudgeConfig(share=0.25))
        verdict, evidence = judge.update(state, [])
        for record in records:
            verdict, evidence = judge.update(state, [record])
        return state, verdict, evidence

    @given(_steps)
    @_thorough
    def test_same_records_same_bits(self, steps: Any) -> None:
        """Two judges that see the same records in the same order agree to the last bit."""
        records = _observations(steps)
        first, verdict, evidence = self.judged(self.make(), records)
        second, again, as_well = self.judged(self.make(), records)
        assert (again, as_well) == (verdict, evidence)
        assert self.make().dump(first) == self.make().dump(second)

    @given(_steps)
    @_thorough
    def test_batches_do_not_matter(self, steps: Any) -> None:
        """All records in one update leave the same state as one update per record."""
        judge, records = self.make(), _observations(steps)
        singly, verdict, evidence = self.judged(judge, records)
        state = judge.start(_baseline(), JudgeConfig(share=0.25))
        assert judge.update(state, records) == (verdict, evidence)
        assert judge.dump(state) == judge.dump(singly)

    @given(_steps)
    @_thorough
    def test_harm_alone_is_the_same_harm(self, steps: Any) -> None:
        """``proves``, where a judge has it, folds as ``update`` does, and says whether that rolls back."""
        judge, records = self.make(), _observations(steps)
        proves = getattr(judge, "proves", None)
        if proves is None:
            return
        singly, verdict, evidence = self.judged(judge, records)
        state = judge.start(_baseline(), JudgeConfig(share=0.25))
        said = [proves(state, [record]) for record in records]
        assert said == sorted(said), "harm that was proved stays proved"
        assert any(said) == (verdict is Verdict.ROLLBACK)
        assert judge.update(state, []) == (verdict, evidence)
        assert judge.dump(state) == judge.dump(singly)

    @given(_steps, st.data())
    @_thorough
    def test_dump_and_load_at_any_point(self, steps: Any, data: Any) -> None:
        """A state written and read in mid-stream goes on as if nothing had happened."""
        records = _observations(steps)
        cut = data.draw(st.integers(0, len(records)))
        whole, verdict, evidence = self.judged(self.make(), records)
        before, after = self.make(), self.make()
        state, _, _ = self.judged(before, records[:cut])
        state = after.load(before.dump(state))
        for record in records[cut:]:
            after.update(state, [record])
        assert after.update(state, []) == (verdict, evidence)
        assert after.dump(state) == before.dump(whole)

    @given(_steps)
    @_thorough
    def test_looking_changes_nothing(self, steps: Any) -> None:
        """An update without records gives the verdict as it stands and leaves the state alone."""
        judge = self.make()
        state, verdict, evidence = self.judged(judge, _observations(steps))
        written = judge.dump(state)
        assert judge.update(state, []) == (verdict, evidence)
        assert judge.dump(state) == written

    @given(_steps)
    @_thorough
    def test_rollback_is_final(self, steps: Any) -> None:
        """After a rollback no record makes it undone."""
        judge = self.make()
        state = judge.start(_baseline(), JudgeConfig(share=0.25))
        at = 0.0
        verdict, _ = judge.update(state, [])
        for i in range(400):
            at += 1.0
            failing = Observation("rollout", "canary", f"canary-{i}", 1, 1, at)
            fine = [Observation("rollout", "control", f"b-{i}-{j}", 1, 0, at) for j in range(3)]
            verdict, _ = judge.update(state, [*fine, failing])
            if verdict is Verdict.ROLLBACK:
                break
        assert verdict is Verdict.ROLLBACK, "400 of 400 units failed and control was fine"
        for record in _observations(steps):
            verdict, _ = judge.update(state, [record])
            assert verdict is Verdict.ROLLBACK

    def test_nothing_seen_is_no_promotion(self) -> None:
        """Without any observation, or with one arm only, the verdict is never promotion."""
        judge = self.make()
        state = judge.start(_baseline(), JudgeConfig(share=0.25))
        assert judge.update(state, [])[0] is not Verdict.PROMOTE
        for arm in ("canary", "control"):
            state = judge.start(_baseline(), JudgeConfig(share=0.25))
            for i in range(2000):
                record = Observation("rollout", arm, f"{arm}-{i % 50}", 1, 0, float(i))
                verdict, _ = judge.update(state, [record])
                assert verdict is not Verdict.PROMOTE

    def test_an_empty_baseline_is_no_error(self) -> None:
        """A rollout without any history starts, and does not promote before it saw something."""
        judge = self.make()
        state = judge.start(Baseline(), JudgeConfig())
        assert judge.update(state, [])[0] in {Verdict.HOLD, Verdict.CONTINUE}
