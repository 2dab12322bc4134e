"""Where a secret is, never the secret: ``{ env = "NAME" }`` or ``{ file = "path" }``.

A key written into a configuration file ends in backups, logs and version control, so there is no way to
write one there. What a ``Secret`` points to is read when it is needed and never kept.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import attrs

from xenolect.errors import ConfigError

__all__ = ["Secret"]


@attrs.frozen(repr=False)
class Secret:
    """A pointer to a secret in the environment or in a file; exactly one of the two."""

    env: str | None = None
    file: str | None = None

    def __attrs_post_init__(self) -> None:
        if (self.env is None) == (self.file is None):
            raise ConfigError(
                'a secret is either { env = "NAME" } or { file = "path" }, exactly one of them'
            )

    def reveal(self, environ: Mapping[str, str] | None = None) -> str:
        """The secret itself, without the line end of a file; ConfigError says what is missing."""
        if self.env is not None:
            found = (os.environ if environ is None else environ).get(self.env)
            if not found:
                raise ConfigError(
                    f"the environment variable {self.env} is not set; it holds a secret"
                )
            return found
        assert self.file is not None
        try:
            text = Path(self.file).read_text("utf-8").rstrip("\r\n")
        except UnicodeDecodeError:
            # Without the cause: it would carry the bytes of the secret into a traceback.
            raise ConfigError(
                f"{self.file} holds a secret but is not text; write it as hex or base64"
            ) from None
        except OSError as error:
            raise ConfigError(
                f"{self.file} holds a secret but can not be read: {error.strerror}"
            ) from error
        if not text:
            raise ConfigError(f"{self.file} holds a secret but is empty")
        return text

    def __repr__(self) -> str:
        where = f"env={self.env!r}" if self.env is not None else f"file={self.file!r}"
        return f"Secret({where}, value=***)"
