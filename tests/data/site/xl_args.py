"""A plugin that asks a hook for an argument it does not have."""

from xenolect.hookspecs import hookimpl


@hookimpl
def xenolect_observe(agentt):
    raise AssertionError("never called")
