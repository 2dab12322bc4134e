"""A plugin that misspells its hook."""

from xenolect.hookspecs import hookimpl


@hookimpl
def xenolect_scorer():
    yield from ()
