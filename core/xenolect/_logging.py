"""The package's logs: standard loggers ``xenolect.<category>``, every record cleaned before anybody sees it.

A variant's description, an agent's id or an error's text may come from anyone. A line break in it would
forge a line of the log, an escape sequence would repaint the terminal that shows it, and a key pasted
into a message would stay in every backup of the log. The filter sits on the loggers themselves, so
whatever handlers the application has get clean records. The root logger is never touched.
"""

from __future__ import annotations

import logging
import re
import sys
import unicodedata
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from xenolect.config import LogConfig

__all__ = ["CATEGORIES", "FIELDS", "TRACE", "Cleaning", "configure", "one_line", "redacted"]

TRACE = 5
CATEGORIES = (
    "variants",
    "states",
    "performance",
    "agents",
    "safeguards",
    "plugins",
    "chunks",
)
FIELDS = ("event", "variant_id", "agent_id", "rollout", "revision")
"""Every record has these, None where they do not apply: a format may name them."""
LEVELS = {
    "ERROR": logging.ERROR,
    "WARN": logging.WARNING,
    "INFO": logging.INFO,
    "DEBUG": logging.DEBUG,
    "TRACE": TRACE,
}
HIDDEN = "***"
_OWN = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
_UNSEEN = (
    "Cc",
    "Cf",
    "Cs",
    "Zl",
    "Zp",
)  # control, format, surrogate, line and paragraph separators
_DEEP = 8

_NAMES = r"passw(?:or)?d|passphrase|secret|token|credentials?|authorization|cookie|(?:api|access|private|data|secret)[_-]?key"
_BY_NAME = re.compile(rf"(?i)(?:{_NAMES})$")
_IN_TEXT = re.compile(
    rf"""(?ix) (?P<name> ["']? [\w.-]* (?:{_NAMES}) ["']? \s* [=:] \s* )
    (?: (?P<scheme> (?:bearer|basic|digest) \s+ )? (?P<quote> ["'] ) .*? (?P=quote)
      | (?: (?:bearer|basic|digest) \s+ )? [^\s,;&"'\])}}]+ )"""
)
_SHAPES = (
    re.compile(
        r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|$)", re.DOTALL
    ),
    re.compile(r"(?<=://)[^\s/@:]*:[^\s/@]+(?=@)"),  # who and how of a URL
    re.compile(r"(?i)(?<=bearer )\S+|(?<=basic )[A-Za-z0-9+/=]{8,}"),
    re.compile(r"\beyJ[\w-]{8,}\.[\w-]+\.[\w-]*"),  # JSON web tokens
    re.compile(r"\b(?:AKIA|ASIA)[A-Z0-9]{16}\b"),
    re.compile(r"\b(?:sk|pk|rk)[-_][A-Za-z0-9_-]{16,}|\bgh[pousr]_[A-Za-z0-9]{20,}"),
    re.compile(r"\bAGE-SECRET-KEY-1[A-Z0-9]+"),
)


def redacted(text: str) -> str:
    """The text without what looks like a secret: by the name before it, or by its shape."""
    for shape in _SHAPES:
        text = shape.sub(HIDDEN, text)
    return _IN_TEXT.sub(lambda match: f"{match['name']}{HIDDEN}", text)


def one_line(text: str) -> str:
    """The text on one line, with control characters, and those that turn or hide text, made visible."""
    if text.isprintable():
        return text
    return "".join(
        each.encode("unicode_escape").decode("ascii")
        if unicodedata.category(each) in _UNSEEN
        else each
        for each in text
    )


def _clean(name: str, value: Any, depth: int = 0) -> Any:
    """A field's value: hidden where its name says so, else cleaned, down to what JSON can hold."""
    if value is None or isinstance(value, (bool, int, float)):
        return value if not _BY_NAME.search(name) or value is None else HIDDEN
    if _BY_NAME.search(name):
        return HIDDEN
    if isinstance(value, str):
        return one_line(redacted(value))
    if depth >= _DEEP:
        return "..."
    if isinstance(value, Mapping):
        return {
            one_line(str(key)): _clean(str(key), item, depth + 1) for key, item in value.items()
        }
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_clean("", item, depth + 1) for item in value]
    return one_line(redacted(str(value)))


class Cleaning(logging.Filter):
    """Cleans the records of one logger; those of categories that are not wanted are dropped."""

    def __init__(self) -> None:
        super().__init__()
        self.categories: tuple[str, ...] = ()

    def filter(self, record: logging.LogRecord) -> bool:
        """Clean in place: every handler sees the same."""
        if self.categories and record.name.split(".")[1] not in self.categories:
            return False
        try:
            text = record.getMessage()
        except Exception:
            text = f"{record.msg!s} {record.args!r}"
        record.msg, record.args = one_line(redacted(text)), None
        for name in [name for name in vars(record) if name not in _OWN]:
            setattr(record, name, _clean(name, getattr(record, name)))
        for name in FIELDS:
            if not hasattr(record, name):
                setattr(record, name, None)
        if record.exc_info and record.exc_info[0] is not None:
            trace = logging.Formatter().formatException(record.exc_info)
            # Indented, so that no line of an error's text looks like a line of the log.
            lines = redacted(trace).splitlines()
            record.exc_text = "\n".join(f"    {one_line(line)}" for line in lines)
        return True


class Stderr(logging.StreamHandler[Any]):
    """Prints on standard error as long as the application has no handler of its own."""

    def __init__(self) -> None:
        super().__init__()
        shape = "%(asctime)s %(levelname)-7s %(name)s %(message)s"
        self.setFormatter(logging.Formatter(shape, "%Y-%m-%dT%H:%M:%S"))

    def emit(self, record: logging.LogRecord) -> None:
        """Print, unless somebody else does."""
        ours = logging.getLogger("xenolect")
        handlers = [*ours.handlers, *(logging.getLogger().handlers if ours.propagate else ())]
        if all(each is self or isinstance(each, logging.NullHandler) for each in handlers):
            self.stream = sys.stderr  # as it is now: programs replace it
            super().emit(record)


_cleaning = Cleaning()
_stderr = Stderr()


def configure(config: LogConfig) -> None:
    """Clean every record from now on, and where a level is configured, apply it.

    Levels and categories are the process's: where several managers are open, those of the last one that
    sets them count.
    """
    logging.addLevelName(TRACE, "TRACE")
    for category in CATEGORIES:
        logging.getLogger(f"xenolect.{category}").addFilter(_cleaning)  # once, however often it is
    if config.level is not None:
        ours = logging.getLogger("xenolect")
        ours.setLevel(LEVELS[config.level])
        ours.addHandler(_stderr)
        _cleaning.categories = tuple(config.categories)
    elif config.categories:
        _cleaning.categories = tuple(config.categories)
