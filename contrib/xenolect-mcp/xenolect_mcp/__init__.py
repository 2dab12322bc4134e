"""xenolect for the Model Context Protocol: middleware, wire variants and the demo."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from xenolect_mcp.asgi import WireASGI
    from xenolect_mcp.identity import EXT, agent, session_of
    from xenolect_mcp.middleware import EmergenceMiddleware, current_selection
    from xenolect_mcp.transport import Exchange, WireError, WireTransport, speaking
    from xenolect_mcp.wire import Coding, DecodeError, Dictionaries, Dictionary

_HOME = {
    "asgi": ["WireASGI"],
    "identity": ["EXT", "agent", "session_of"],
    "middleware": ["EmergenceMiddleware", "current_selection"],
    "transport": ["Exchange", "WireError", "WireTransport", "speaking"],
    "wire": ["Coding", "DecodeError", "Dictionaries", "Dictionary"],
}
_WHERE = {name: module for module, names in _HOME.items() for name in names}

__all__ = [
    "EXT",
    "Coding",
    "DecodeError",
    "Dictionaries",
    "Dictionary",
    "EmergenceMiddleware",
    "Exchange",
    "WireASGI",
    "WireError",
    "WireTransport",
    "agent",
    "current_selection",
    "session_of",
    "speaking",
]


def __getattr__(name: str) -> Any:
    # importing mcp costs over a second; a name is imported when it is asked for
    if name in _WHERE:
        value = getattr(importlib.import_module(f"xenolect_mcp.{_WHERE[name]}"), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module 'xenolect_mcp' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
