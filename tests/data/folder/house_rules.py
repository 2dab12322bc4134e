"""A plugin in a directory: one rule of the house."""

from __future__ import annotations

import attrs

from xenolect.hookspecs import hookimpl, offer


@attrs.frozen
class Quiet:
    """Refuses agents on a loud platform."""

    loud: str = "siren"

    def refuses(self, variant, context):
        return f"{context.platform} is loud" if context.platform == self.loud else None


@hookimpl
def xenolect_compatibility():
    yield offer("quiet", Quiet)
