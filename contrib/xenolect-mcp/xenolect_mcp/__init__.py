"""xenolect for the Model Context Protocol: middleware, wire variants and the demo."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from xenolect_mcp.asgi import WireASGI
    from xenolect_mcp.contract import CONTRACT_SCHEMA, Contract, ContractError
    from xenolect_mcp.extension import EmergenceExtension, conversation, speaks
    from xenolect_mcp.identity import EXT, PRINCIPAL, agent, principal, principal_id, session_of
    from xenolect_mcp.middleware import EmergenceMiddleware, current_selection
    from xenolect_mcp.transport import Exchange, WireError, WireTransport, speaking
    from xenolect_mcp.wire import Coding, DecodeError, Dictionaries, Dictionary

_HOME = {
    "asgi": ["WireASGI"],
    "contract": ["CONTRACT_SCHEMA", "Contract", "ContractError"],
    "extension": ["EmergenceExtension", "conversation", "speaks"],
    "identity": ["EXT", "PRINCIPAL", "agent", "principal", "principal_id", "session_of"],
    "middleware": ["EmergenceMiddleware", "current_selection"],
    "transport": ["Exchange", "WireError", "WireTransport", "speaking"],
    "wire": ["Coding", "DecodeError", "Dictionaries", "Dictionary"],
}
_WHERE = {name: module for module, names in _HOME.items() for name in names}

__all__ = [
    "CONTRACT_SCHEMA",
    "EXT",
    "PRINCIPAL",
    "Coding",
    "Contract",
    "ContractError",
    "DecodeError",
    "Dictionaries",
    "Dictionary",
    "EmergenceExtension",
    "EmergenceMiddleware",
    "Exchange",
    "WireASGI",
    "WireError",
    "WireTransport",
    "agent",
    "conversation",
    "current_selection",
    "principal",
    "principal_id",
    "session_of",
    "speaking",
    "speaks",
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
