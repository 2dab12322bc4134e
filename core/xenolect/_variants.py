"""``manager.variants``: propose, read, update and move variants through their life."""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

import attrs

from xenolect._codec import moment, variant_to_json
from xenolect._lifecycle import LIVE, check_transition
from xenolect._runtime import Runtime
from xenolect._schemas import check_content
from xenolect._validate import check_id, check_name
from xenolect._variant_content import CONTENT, checked, exported, imported
from xenolect.errors import (
    ConflictError,
    DuplicateError,
    InvalidVariantError,
    LimitError,
    TransitionError,
)
from xenolect.facts import Change, Put
from xenolect.model import ProtocolVariant, VariantStatus

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    from xenolect._exchange import Imported

__all__ = ["Variants"]

S = VariantStatus
Changes = list[Change]
Names = list[str]
VariantList = list[ProtocolVariant]


class Variants:
    """The variants of one manager. Every call takes a variant or its id."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        # set by others: changes that restart a rollout whose content was edited, and those that
        # keep a variant as it is as its last proven one
        self.restart: Callable[[ProtocolVariant], Sequence[Change]] = lambda _: ()
        self.proven: Callable[[ProtocolVariant, str], Sequence[Change]] = lambda *_: ()

    # -- reading ----------------------------------------------------------------------------------

    def get(self, variant: Any) -> ProtocolVariant:
        """The variant as of now; VariantNotFoundError."""
        runtime = self._runtime
        if type(variant) is str and not runtime.asleep:  # what nearly all ask for
            found = runtime.variants.get(variant)
            if found is not None:
                return found
        return runtime.variant(variant)

    def list(
        self, status: VariantStatus | str | None = None, protocol: str | None = None
    ) -> VariantList:
        """All variants in order of creation, or those of a status and a protocol."""
        if self._runtime.asleep:
            self._runtime.wake()
        wanted = None if status is None else VariantStatus(status)
        found = [
            v
            for v in list(self._runtime.variants.values())
            if (wanted is None or v.status == wanted) and protocol in (None, v.protocol)
        ]
        return sorted(found, key=lambda v: (v.created_at or moment(0), v.id))

    def baseline(self, protocol: str = "default", variant: Any = None) -> ProtocolVariant | None:
        """The protocol's fallback; with ``variant`` (an active one) it becomes the fallback."""
        if self._runtime.asleep:
            self._runtime.wake()
        if variant is not None:
            chosen = self._may_be_baseline(self.get(variant), protocol)
            point = self.proven(chosen, "made the baseline")

            def build() -> Sequence[Change]:
                now = self._may_be_baseline(self.get(chosen.id), protocol)
                if point and now.version != chosen.version:
                    raise ConflictError(
                        f"variant {chosen.id!r} changed while it was made the baseline (version "
                        f"{chosen.version} -> {now.version}); read it again and decide again",
                        expected=chosen.version,
                        found=now.version,
                    )
                return [Put("baseline", protocol, {"variant_id": chosen.id}), *point]

            self._runtime.commit_retrying(build)
            self._runtime.settle()
        baseline = self._runtime.baseline(protocol)
        return None if baseline is None else self._runtime.variants.get(baseline)

    # -- writing ----------------------------------------------------------------------------------

    def propose(
        self,
        description: str,
        changes: Any,
        *,
        requirements: Mapping[str, Any] | None = None,
        id: str | None = None,
        protocol: str = "default",
        optional: Mapping[str, Any] | None = None,
        conflicts: Mapping[str, Any] | None = None,
        metadata: Mapping[str, Any] | None = None,
        parent_id: Any = None,
        by_agent: str | None = None,
    ) -> ProtocolVariant:
        """Store a new variant as PROPOSED. InvalidVariantError, DuplicateError, LimitError."""
        runtime = self._runtime
        variant_id = (
            str(uuid.UUID(runtime.token(16), version=4))
            if id is None
            else check_id(id, "variant id", InvalidVariantError)
        )
        check_id(protocol, "protocol", InvalidVariantError)
        parent = None if parent_id is None else self.get(parent_id).id
        now = moment(runtime.clock())
        content = checked(
            description=description,
            changes=changes,
            requirements=requirements or {},
            optional=optional or {},
            conflicts=conflicts or {},
            metadata=metadata or {},
        )
        check_content(content["changes"], content["metadata"])
        variant = ProtocolVariant(
            id=variant_id,
            protocol=protocol,
            parent_id=parent,
            created_at=now,
            updated_at=now,
            **content,
        )

        def build() -> Sequence[Change]:
            self._check_room(1)
            if runtime.fact("variant", variant_id) is not None:
                raise DuplicateError(
                    f"variant id {variant_id!r} is taken or was once; ids are never used again"
                )
            return [Put("variant", variant_id, variant_to_json(variant), 0)]

        actor = "" if by_agent is None else f"agent:{check_name(by_agent, 'agent id')}"
        runtime.commit_retrying(build, actor=actor)
        runtime.tell("variant.proposed", variant_id, by_agent=by_agent)
        runtime.settle()
        return self.get(variant_id)

    def update(
        self,
        variant: Any,
        *,
        expected_version: int | None = None,
        force: bool = False,
        **content: Any,
    ) -> ProtocolVariant:
        """Replace parts of a variant's content, if it is still at the version given.

        A variant carries its version; a bare id needs ``expected_version``. ConflictError names both
        versions. ``changes`` of an ACTIVE variant need ``force`` (audited); on a CANARY they restart
        the rollout at level 0 as its next attempt.
        """
        runtime = self._runtime
        unknown = sorted(set(content) - set(CONTENT))
        if unknown:
            raise InvalidVariantError(
                f"{', '.join(unknown)} can not be updated; what can: {', '.join(CONTENT)}"
            )
        if not content:
            raise InvalidVariantError(f"nothing to update; give some of {', '.join(CONTENT)}")
        if expected_version is None:
            if not isinstance(variant, ProtocolVariant):
                raise InvalidVariantError(
                    "an id alone does not say which version you saw; pass the variant, or "
                    "expected_version="
                )
            expected_version = variant.version
        current = self.get(variant)
        if current.version != expected_version:
            raise ConflictError(
                f"variant {current.id!r} is at version {current.version}, you expected "
                f"{expected_version}; read it again and decide again",
                expected=expected_version,
                found=current.version,
            )
        new = checked(**content)
        edited = "changes" in content and new["changes"] != current.changes
        if current.status in (S.ACTIVE, S.DEPRECATED) and edited and not force:
            raise TransitionError(
                f"variant {current.id!r} is {current.status}: agents speak it now, so its changes are "
                f"not edited in place; propose a new one with "
                f"variants.propose(..., parent_id={current.id!r}), or pass force=True (audited)"
            )
        if current.status in (S.ROLLED_BACK, S.ARCHIVED, S.PAUSED):
            verb = {
                S.ROLLED_BACK: "start_testing it first",
                S.ARCHIVED: "propose a new variant",
                S.PAUSED: "resume or abort its rollout first",
            }[current.status]
            raise TransitionError(f"variant {current.id!r} is {current.status}; {verb}")
        updated = attrs.evolve(current, updated_at=moment(runtime.clock()), **new)
        check_content(updated.changes, updated.metadata)
        changes: Changes = []
        if current.status == S.ACTIVE and edited:
            changes.extend(self.proven(current, "before a forced update"))
        changes.append(self.put(updated, expected_version))
        if current.status == S.CANARY and edited:
            changes.extend(self.restart(updated))
        runtime.commit(changes, actor="force update" if force else "")
        runtime.tell("variant.updated", current.id, forced=force, fields=sorted(content))
        runtime.settle()
        return self.get(current.id)

    def start_testing(self, variant: Any) -> ProtocolVariant:
        """PROPOSED -> TESTING; ROLLED_BACK -> TESTING once the quarantine is over."""
        current = self.get(variant)
        check_transition(current, S.TESTING)
        until = self.quarantine(current)
        if until is not None:
            raise TransitionError(
                f"variant {current.id!r} was rolled back and is in quarantine until "
                f"{until:%Y-%m-%d %H:%M} UTC ([rollback] quarantine)"
            )
        return self._move(current, S.TESTING, "variant.testing")

    def quarantine(self, variant: Any) -> datetime | None:
        """Until when a variant that was rolled back may not be tested again; None when it may."""
        current = self.get(variant)
        until = (self._runtime.value("quarantine", current.id) or {}).get("until", 0.0)
        if current.status != S.ROLLED_BACK or until <= self._runtime.clock():
            return None
        return moment(until)

    def activate(self, variant: Any, *, force: bool = False) -> ProtocolVariant:
        """To ACTIVE: the first of its protocol (it becomes the baseline), a deprecated one again,
        any where ``incremental_adoption`` is off, else with ``force`` (audited)."""
        runtime = self._runtime
        current = self.get(variant)
        check_transition(current, S.ACTIVE)
        if current.status in (S.CANARY, S.PAUSED):
            raise TransitionError(
                f"variant {current.id!r} is in a rollout; use canaries.promote or canaries.abort"
            )
        baseline = runtime.baseline(current.protocol)
        first = baseline is None
        if (
            not first
            and current.status != S.DEPRECATED
            and runtime.config.incremental_adoption
            and not force
        ):
            raise TransitionError(
                f"variant {current.id!r} must be proved by a rollout before it is active: "
                f"canaries.start({current.id!r}); or pass force=True (audited)"
            )
        extra: Changes = []
        if first:
            active = attrs.evolve(current, status=S.ACTIVE, version=current.version + 1)
            extra = [
                Put("baseline", current.protocol, {"variant_id": current.id}, 0),
                *self.proven(active, "activated"),
            ]
        actor = "force activate" if force and not first else ""
        return self._move(current, S.ACTIVE, "variant.activated", extra, actor)

    def deprecate(self, variant: Any) -> ProtocolVariant:
        """ACTIVE -> DEPRECATED; the baseline needs a successor first."""
        current = self.get(variant)

        def build() -> Sequence[Change]:
            now = self.get(current.id)
            self._may_go(now)
            return [self.moved(now, S.DEPRECATED)]

        self._runtime.commit_retrying(build)
        self._runtime.tell("variant.deprecated", current.id)
        self._runtime.settle()
        return self.get(current.id)

    def _may_be_baseline(self, chosen: ProtocolVariant, protocol: str) -> ProtocolVariant:
        if chosen.status != S.ACTIVE or chosen.protocol != protocol:
            raise TransitionError(
                f"the baseline of {protocol!r} must be one of its active variants; "
                f"{chosen.id!r} is {chosen.status} in {chosen.protocol!r}"
            )
        return chosen

    def _may_go(self, current: ProtocolVariant) -> None:
        """Can an active variant do without being served?"""
        check_transition(current, S.DEPRECATED)
        if self._runtime.baseline(current.protocol) == current.id:
            raise TransitionError(
                f"variant {current.id!r} is the baseline of {current.protocol!r}; name a successor "
                f"first: variants.baseline({current.protocol!r}, other)"
            )
        controlled = [
            key
            for (kind, key), fact in self._runtime.facts.items()
            if kind == "rollout"
            and fact.value
            and fact.value["control_id"] == current.id
            and self._runtime.variants[key].status in (S.CANARY, S.PAUSED)
        ]
        if controlled:
            raise TransitionError(
                f"variant {current.id!r} is the control of the rollout of {controlled[0]!r}; "
                f"promote or abort that first"
            )

    def archive(self, variant: Any) -> ProtocolVariant:
        """Put a variant away for good; it no longer counts against ``max_variants``."""
        current = self.get(variant)
        check_transition(current, S.ARCHIVED)
        return self._move(current, S.ARCHIVED, "variant.archived")

    # -- files ------------------------------------------------------------------------------------

    def export(
        self,
        variants: Iterable[Any] | None,
        path: str | os.PathLike[str],
        *,
        key: Ed25519PrivateKey | bytes | None = None,
    ) -> int:
        """Write variants (None: all) into a file with a digest; how many. ``key`` signs it (Ed25519).

        Content only: states and measurements stay here. VariantNotFoundError.
        """
        from xenolect._exchange import write_file

        chosen = self.list() if variants is None else [self.get(each) for each in variants]
        write_file(path, [exported(variant) for variant in chosen], key)
        return len(chosen)

    def import_(
        self, path: str | os.PathLike[str], *, trust: Iterable[str | bytes] | None = None
    ) -> Imported:
        """Take the variants of a file in as PROPOSED, in one commit; those in conflict are reported.

        ``trust``: public keys, one of which must have signed it. CorruptError, AccessError, LimitError,
        InvalidVariantError: nothing is imported then.
        """
        from xenolect._exchange import Imported, read_file

        found, signer = read_file(path, trust)
        new: VariantList = []
        same: Names = []
        conflicts: dict[str, str] = {}
        for row in found:
            variant = imported(row, moment(self._runtime.clock()))
            old = self._runtime.variants.get(variant.id)
            if old is not None and exported(old) == exported(variant):
                same.append(variant.id)
            elif self._runtime.fact("variant", variant.id) is not None:
                conflicts[variant.id] = "the id is taken here by other content"
            elif any(other.id == variant.id for other in new):
                conflicts[variant.id] = "the id stands twice in the file"
            else:
                new.append(variant)
        known = {*self._runtime.variants, *(variant.id for variant in new)}
        orphans = [v for v in new if v.parent_id is not None and v.parent_id not in known]
        new = [attrs.evolve(v, parent_id=None) if v in orphans else v for v in new]

        def build() -> Sequence[Change]:
            self._check_room(len(new))
            return [Put("variant", v.id, variant_to_json(v), 0) for v in new]

        self._runtime.commit_retrying(build, actor="import")
        for variant in new:
            self._runtime.tell("variant.proposed", variant.id, by_agent=None)
        self._runtime.settle()
        return Imported(tuple(v.id for v in new), tuple(same), conflicts, signer)

    def _check_room(self, more: int) -> None:
        """LimitError when ``max_variants`` leaves no room for so many more."""
        live = sum(v.status in LIVE for v in self._runtime.variants.values())
        most = self._runtime.config.max_variants
        if live + more > most:
            raise LimitError(
                f"{live} variants are stored and not archived, max_variants is {most}; archive some "
                f"or raise it"
            )

    # -- for the other parts ----------------------------------------------------------------------

    def put(self, variant: ProtocolVariant, expected: int | None) -> Put:
        """The change that stores a variant; fields of later releases are kept."""
        stored = self._runtime.value("variant", variant.id) or {}
        return Put("variant", variant.id, {**stored, **variant_to_json(variant)}, expected)

    def moved(self, variant: ProtocolVariant, to: S) -> Put:
        """The change that gives a variant another status."""
        now = moment(self._runtime.clock())
        return self.put(attrs.evolve(variant, status=to, updated_at=now), variant.version)

    def _move(
        self,
        current: ProtocolVariant,
        to: S,
        event: str,
        extra: Iterable[Change] = (),
        actor: str = "",
    ) -> ProtocolVariant:
        self._runtime.commit([self.moved(current, to), *extra], actor=actor)
        self._runtime.tell(event, current.id)
        self._runtime.settle()
        return self.get(current.id)
