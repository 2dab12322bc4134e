"""A plugin that uses an entry point name and an offer name that are taken."""

from xenolect.hookspecs import hookimpl, offer


@hookimpl
def xenolect_chunk_storage():
    yield offer("memory", dict)
