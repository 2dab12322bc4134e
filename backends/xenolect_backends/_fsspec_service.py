"""One place behind fsspec: ``s3://`` through s3fs, and whatever else fsspec opens."""

from __future__ import annotations

import contextlib
import sys
import threading
from collections.abc import Iterable, Mapping
from typing import Any, NoReturn

from xenolect.errors import (
    AccessError,
    ConfigError,
    EmergenceError,
    NotFoundError,
    StorageError,
    UnavailableError,
)
from xenolect.interfaces import Buffer
from xenolect.units import format_seconds
from xenolect_backends._endpoints import (
    Endpoint,
    check_encrypted,
    check_options,
    raise_for_status,
    shown,
)
from xenolect_backends._local import raise_translated
from xenolect_backends._remote import MARK, Taken

__all__ = ["FsspecService"]

_SINGLE = 1 << 30
"""Objects are sent in one request up to twice this; above 100 MiB s3fs would begin to send parts, whose
condition holds for the last request only."""
_memory = threading.Lock()
"""fsspec's memory is one dictionary per process, whose create checks first and writes then."""


class FsspecService:
    """``Service`` of one URL."""

    def __init__(
        self,
        url: str,
        *,
        timeout: float,
        endpoint: Endpoint,
        options: Mapping[str, Any],
    ) -> None:
        import fsspec  # 60 ms

        self.shown = shown(url)
        self._timeout = timeout
        check_encrypted(url, endpoint.allow_plaintext)
        check_options(options)
        # Listings are never cached: other processes write here. Instances are not shared, so that
        # closing one, or forking, never takes another's connections along.
        given: dict[str, Any] = {"use_listings_cache": False, "skip_instance_cache": True}
        scheme = url.partition("://")[0]
        if scheme in ("s3", "s3a"):
            given |= _s3_options(endpoint, timeout, options)
        elif endpoint != Endpoint(allow_plaintext=endpoint.allow_plaintext):
            raise ConfigError(
                f"chunks: endpoint, region, ca and keys are for s3:// only; give those of {scheme}:// in "
                f"chunks.options, by the names that its file system has for them"
            )
        else:
            given |= options
        try:
            self._fs, root = fsspec.core.url_to_fs(url, **given)
        except (ImportError, ValueError) as error:
            raise StorageError(
                f"chunks: {self.shown} can not be opened: {error}; install what it names"
                f"{_extra(scheme)}, or correct the URL"
            ) from error
        self._root = str(root).strip("/") if scheme == "s3" else str(root).rstrip("/")
        self._memory = "memory" in _protocols(self._fs)
        self._s3 = "s3" in _protocols(self._fs)
        self._limits = {"timeout": timeout} if self._fs.async_impl else {}
        self.service = "" if self._memory else f"{scheme}://{self._root.partition('/')[0]}"
        if self._s3:
            if not self._root:
                raise ConfigError(
                    f"chunks.url is {self.shown!r}; name a bucket, as s3://bucket/prefix"
                )
            self._fs.retries = 1  # ours are counted, and end at the deadline
            self._connect(endpoint)

    def _connect(self, endpoint: Endpoint) -> None:
        """Build the client, which reads environment and profile, and look at where it will send to."""
        try:
            self._fs.connect()
            where = str(self._fs.s3.meta.endpoint_url)
        except Exception as error:
            self._raise(error, "connecting")
        check_encrypted(where, endpoint.allow_plaintext)
        self.service += f" at {where}"

    # -- requests ---------------------------------------------------------------------------------

    def create(self, key: str, data: Buffer, mark: str) -> None:
        """Under the service's own condition, where it has one."""
        path, what = self._path(key), f"writing {key!r}"
        if self._memory:
            try:
                with _memory:
                    self._fs.pipe_file(path, bytes(data), mode="create")
            except FileExistsError as error:
                raise Taken from error
            return
        more = {"Metadata": {MARK: mark}, "chunksize": _SINGLE} if self._s3 else {}
        try:
            self._fs.pipe_file(path, bytes(data), mode="create", **more, **self._limits)
        except FileExistsError as error:
            raise Taken from error
        except Exception as error:
            if _answer(error)[0] == 412:
                raise Taken from error
            self._raise(error, what, writing=True)

    def replace(self, key: str, data: Buffer) -> None:
        """Whatever is there."""
        more = {"chunksize": _SINGLE} if self._s3 else {}
        try:
            with _memory if self._memory else contextlib.nullcontext():
                self._fs.pipe_file(self._path(key), bytes(data), **more, **self._limits)
        except Exception as error:
            self._raise(error, f"writing {key!r}", writing=True)

    def mark(self, key: str) -> str | None:
        """From the metadata of S3; elsewhere there is none."""
        if not self._s3:
            return None
        try:
            found: str | None = self._fs.metadata(self._path(key), **self._limits).get(MARK)
        except Exception as error:
            self._raise(error, f"reading {key!r}")
        return found

    def read(self, key: str) -> bytes:
        """In one request: s3fs asks for the size first unless it may use one connection only."""
        more = {"max_concurrency": 1} if self._s3 else {}
        try:
            return bytes(self._fs.cat_file(self._path(key), **more, **self._limits))
        except Exception as error:
            self._raise(error, f"reading {key!r}")

    def read_range(self, key: str, start: int, stop: int) -> bytes:
        """S3 answers 416 for a range behind the end; others may raise anything: they are asked first."""
        path = self._path(key)
        try:
            if not self._s3:
                info = self._fs.info(path, **self._limits)
                if info["type"] != "file":
                    raise NotFoundError(f"no object {key!r} in {self.shown}")
                stop = min(stop, info["size"])
                if start >= stop:
                    return b""
            return bytes(self._fs.cat_file(path, start=start, end=stop, **self._limits))
        except Exception as error:
            if _answer(error)[0] == 416:
                return b""
            self._raise(error, f"reading {key!r}")

    def remove(self, key: str) -> None:
        """One request."""
        try:
            self._fs.rm_file(self._path(key), **self._limits)
        except Exception as error:
            self._raise(error, f"removing {key!r}")

    def keys(self, prefix: str) -> Iterable[str]:
        """S3 finds by any beginning, 1,000 keys a request; other file systems by directory."""
        folder, _, start = prefix.rpartition("/")
        place = f"{self._root}/{folder}".rstrip("/")
        more = {"prefix": start} if self._s3 and start else {}
        try:
            paths = self._fs.find(place, **more, **self._limits)
        except FileNotFoundError as error:
            if _answer(error)[1] == "NoSuchBucket":
                self._raise(error, f"listing {prefix!r}")
            return []
        except Exception as error:
            self._raise(error, f"listing {prefix!r}")
        inside = self._root + "/"
        return [str(path)[len(inside) :] for path in paths if str(path).startswith(inside)]

    def close(self) -> None:
        """fsspec closes its connections with the last reference."""
        with contextlib.suppress(Exception):
            self._fs.invalidate_cache()

    # -- errors -----------------------------------------------------------------------------------

    def _path(self, key: str) -> str:
        return f"{self._root}/{key}"

    def _raise(self, error: Exception, what: str, *, writing: bool = False) -> NoReturn:
        if isinstance(error, EmergenceError):
            raise error
        status, code, retry_after = _answer(error)
        if writing and isinstance(error, FileNotFoundError):
            code = "NoSuchBucket"
        if status:
            raise_for_status(status, code, what, self.shown, error, retry_after)
        if isinstance(error, (FileNotFoundError, NotADirectoryError, IsADirectoryError)):
            raise NotFoundError(f"{what}: there is none in {self.shown}") from error
        if _distrusted(error):
            raise StorageError(
                f"{what}: the certificate of {self.shown} is not trusted ({error}); name the file of your "
                f"authority's certificates with chunks.ca"
            ) from error
        if isinstance(error, PermissionError) or type(error).__name__ in _NO_KEYS:
            raise AccessError(
                f"{what}: {self.shown} can not be used: {error}; set the credentials in the "
                f"environment, or chunks.access_key and chunks.secret_key"
            ) from error
        if _silent(error):
            raise UnavailableError(
                f"{what}: {self.shown} does not answer within {format_seconds(self._timeout)} "
                f"({type(error).__name__}: {error}); try again"
            ) from error
        if isinstance(error, OSError):
            raise_translated(error, what)
        raise StorageError(f"{what}: {type(error).__name__}: {error}") from error


_NO_KEYS = {
    "NoCredentialsError",
    "PartialCredentialsError",
    "ProfileNotFound",
    "TokenRetrievalError",
}


def _extra(scheme: str) -> str:
    return " (pip install 'xenolect[s3]')" if scheme in ("s3", "s3a") else ""


def _protocols(file_system: Any) -> set[str]:
    found = file_system.protocol
    return {found} if isinstance(found, str) else set(found)


def _s3_options(endpoint: Endpoint, timeout: float, options: Mapping[str, Any]) -> dict[str, Any]:
    """s3fs's names for an endpoint; ``options`` win, as the person who wrote them meant it."""
    client: dict[str, Any] = {}
    if endpoint.region is not None:
        client["region_name"] = endpoint.region
    if endpoint.ca is not None:
        client["verify"] = endpoint.ca
    config: dict[str, Any] = {
        "connect_timeout": min(5.0, timeout),
        "read_timeout": timeout,
        "retries": {"total_max_attempts": 1},  # ours are counted, and end at the deadline
        # Chunks carry their own digests, and checksums by default break some services' uploads.
        "request_checksum_calculation": "when_required",
        "response_checksum_validation": "when_required",
    }
    made: dict[str, Any] = {}
    keys = endpoint.keys()
    if keys is not None:
        made["key"], made["secret"], made["token"] = keys
    if endpoint.url is not None:
        made["endpoint_url"] = endpoint.url
    return {
        **made,
        **options,
        "client_kwargs": {**client, **options.get("client_kwargs", {})},
        "config_kwargs": {**config, **options.get("config_kwargs", {})},
    }


def _chain(error: BaseException | None) -> Iterable[BaseException]:
    """The error and what it came from."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


def _answer(error: BaseException) -> tuple[int, str, float | None]:
    """HTTP status, the service's word for it, and its Retry-After; (0, "", None) for no answer."""
    for each in _chain(error):
        answer = getattr(each, "response", None)
        if isinstance(answer, dict) and "Error" in answer:  # botocore
            code = str(answer["Error"].get("Code", ""))
            meta = answer.get("ResponseMetadata", {})
            status = int(meta.get("HTTPStatusCode", 0)) or (int(code) if code.isdigit() else 0)
            if (
                200 <= status < 300
            ):  # an error inside a success: S3 does that where it began to answer
                status = 503 if code in ("SlowDown", "InternalError", "ServiceUnavailable") else 400
            after = str(meta.get("HTTPHeaders", {}).get("retry-after", ""))
            return status, code, float(after) if after.isdigit() else None
        if type(each).__module__ == "aiohttp.http_exceptions":
            continue  # an answer that was no HTTP: its code is aiohttp's own
        for name in ("status", "code", "status_code"):  # aiohttp, gcsfs, azure
            number = str(getattr(each, name, ""))
            if number.isdigit() and 400 <= int(number) < 600:
                return int(number), "", None
    return 0, "", None


def _distrusted(error: BaseException) -> bool:
    import ssl

    return any(
        isinstance(each, ssl.SSLError) or type(each).__name__ == "SSLError"
        for each in _chain(error)
    )


def _silent(error: BaseException) -> bool:
    """Did the connection fail, rather than the request?"""
    from fsspec.exceptions import FSTimeoutError

    kinds: list[type[BaseException]] = [FSTimeoutError, TimeoutError, ConnectionError]
    for module, names in _CLIENTS.items():
        loaded = sys.modules.get(module)
        kinds += [getattr(loaded, name) for name in names if hasattr(loaded, name)]
    return isinstance(error, tuple(kinds))


_CLIENTS = {
    "botocore.exceptions": ("HTTPClientError", "ConnectionError", "IncompleteReadError"),
    "botocore.parsers": ("ResponseParserError",),
    "aiohttp": ("ClientError",),
    "http.client": ("IncompleteRead",),
}
