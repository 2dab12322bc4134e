"""xenolect on A2A: which variant an agent is spoken to in, and what came of it.

Clients: ``VariantClientFactory``. Servers: ``VariantContextBuilder``, ``MeasuredExecutor`` and
``offering``. Both: ``agent_of`` reads what an agent card says its agent can do.
"""

from __future__ import annotations

from xenolect_a2a.client import MeasuredTransport, VariantClientFactory, VariantInterceptor
from xenolect_a2a.identity import EXTENSION, VARIANT, agent_of
from xenolect_a2a.server import MeasuredExecutor, VariantContextBuilder, offering, selection_of

__all__ = [
    "EXTENSION",
    "VARIANT",
    "MeasuredExecutor",
    "MeasuredTransport",
    "VariantClientFactory",
    "VariantContextBuilder",
    "VariantInterceptor",
    "agent_of",
    "offering",
    "selection_of",
]
