"""A plugin that implements nothing."""


def helper():
    return 1
