"""A plugin with nothing wrong: two stores and a scorer."""

import attrs

from xenolect.hookspecs import hookimpl, offer, scorer


class Memory:
    """A store that takes no options."""


@attrs.frozen
class Redis:
    """A store with options."""

    url: str
    timeout: float = attrs.field(default=1.0, validator=attrs.validators.gt(0))


@hookimpl
def xenolect_chunk_storage():
    yield offer("memory", Memory)
    yield offer("redis", Redis)


@scorer("cheapest")
def cheapest(candidates, agent):
    return [1.0 - (c.history.resource_usage or 0.0) for c in candidates]
