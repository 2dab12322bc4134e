"""Both ends against the real SDK: a server on a loopback port, clients of its factory."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
from a2a.client.client import ClientConfig
from a2a.helpers.proto_helpers import (
    get_message_text,
    new_text_message,
)
from a2a.server.agent_execution import AgentExecutor, RequestContext
from a2a.server.events import EventQueue
from a2a.server.request_handlers import DefaultRequestHandler
from a2a.server.routes import (
    create_agent_card_routes,
    create_jsonrpc_routes,
    create_rest_routes,
)
from a2a.server.tasks import InMemoryTaskStore
from a2a.types.a2a_pb2 import (
    AgentCapabilities,
    AgentCard,
    AgentExtension,
    AgentInterface,
    AgentSkill,
    Role,
    SendMessageRequest,
)
from starlette.applications import Starlette
from xenolect_a2a import (
    EXTENSION,
    VARIANT,
    MeasuredExecutor,
    VariantClientFactory,
    VariantContextBuilder,
    agent_of,
    offering,
    selection_of,
)

from xenolect import AgentContext, EmergenceManager


class Echo(AgentExecutor):
    """Answers with what it was asked in; fails when told to."""

    async def execute(self, context: RequestContext, event_queue: EventQueue) -> None:
        words = context.get_user_input()
        if words == "fail":
            raise RuntimeError("told to")
        chosen = selection_of(context)
        headers = context.call_context.state["headers"]
        said = [
            words,
            chosen.variant.id if chosen else "none",
            headers.get(VARIANT, "-"),
            headers.get("x-mode", "-"),
            str(context.metadata.get("hint", "-")),
        ]
        await event_queue.enqueue_event(
            new_text_message(" ".join(said), context_id=context.context_id, role=Role.ROLE_AGENT)
        )

    async def cancel(self, context: RequestContext, event_queue: EventQueue) -> None:
        raise AssertionError("nobody cancels here")


def card_for(port: int) -> AgentCard:
    """An agent with two bindings."""
    url = f"http://127.0.0.1:{port}"
    return AgentCard(
        name="echo",
        description="says it again",
        version="2.1",
        supported_interfaces=[
            AgentInterface(url=f"{url}/rpc", protocol_binding="JSONRPC", protocol_version="1.0"),
            AgentInterface(url=url, protocol_binding="HTTP+JSON", protocol_version="1.0"),
        ],
        capabilities=AgentCapabilities(streaming=True),
        default_input_modes=["text/plain"],
        default_output_modes=["text/plain"],
        skills=[AgentSkill(id="echo", name="echo", description="again", tags=["echo"])],
    )


@pytest.fixture
def serving(tmp_path: Path) -> Iterator[EmergenceManager]:
    """The server's own manager: one variant for all, one for who requests an extension."""
    with EmergenceManager.open(tmp_path / "server") as manager:
        manager.variants.activate(manager.variants.propose("old", {}, id="served-old"))
        new = manager.variants.propose(
            "new", {}, id="served-new", requirements={"ext.urn:new": True}
        )
        manager.variants.activate(new, force=True)
        for _ in range(50):
            manager.report("served-new", "x", success=True, latency_ms=1.0)
            manager.report("served-old", "x", success=True, latency_ms=500.0)
        yield manager


@pytest.fixture
def calling(tmp_path: Path) -> Iterator[EmergenceManager]:
    """The client's manager."""
    with EmergenceManager.open(tmp_path / "client", background=False) as manager:
        changes = {
            "extensions": ["urn:new"],
            "headers": {"x-mode": "fast"},
            "metadata": {"hint": "short"},
        }
        made = manager.variants.propose(
            "fast", changes, id="fast", requirements={"streaming": True}
        )
        manager.variants.activate(made)
        yield manager


@pytest.fixture
def port(serving: EmergenceManager) -> Iterator[int]:
    """A real server on a free port of this machine."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        number = free.getsockname()[1]
    card = card_for(number)
    handler = DefaultRequestHandler(
        agent_executor=MeasuredExecutor(Echo(), serving),
        task_store=InMemoryTaskStore(),
        agent_card=card,
    )
    builder = VariantContextBuilder(serving)
    app = Starlette(
        routes=[
            *create_agent_card_routes(card, card_modifier=offering(serving)),
            *create_jsonrpc_routes(handler, "/rpc", context_builder=builder),
            *create_rest_routes(handler, context_builder=builder),
        ]
    )
    server = uvicorn.Server(
        uvicorn.Config(app, host="127.0.0.1", port=number, log_level="error", ws="none")
    )
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    yield number
    server.should_exit = True
    thread.join(30)


def ask(manager: EmergenceManager, card: AgentCard, words: str, config: ClientConfig) -> str:
    """One message, one answer."""

    async def talk() -> str:
        client = VariantClientFactory(manager, config).create(card)
        request = SendMessageRequest(message=new_text_message(words, role=Role.ROLE_USER))
        try:
            async for event in client.send_message(request):
                return get_message_text(event.message)
        finally:
            await client.close()
        return ""

    return asyncio.run(talk())


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("binding", ["JSONRPC", "HTTP+JSON"])
def test_a_variant_is_applied_and_measured_on_both_ends(
    serving: EmergenceManager,
    calling: EmergenceManager,
    port: int,
    binding: str,
    streaming: bool,
) -> None:
    """Extensions, headers and metadata of the chosen variant arrive; both managers count the call."""
    config = ClientConfig(streaming=streaming, supported_protocol_bindings=[binding])
    before = serving.performance.history("served-new").count
    answer = ask(calling, card_for(port), "hello", config)
    assert answer == "hello served-new fast fast short"
    history = calling.performance.history("fast")
    assert (history.count, history.failures) == (1, 0)
    assert history.latency_ms is not None
    assert history.latency_ms > 0.0
    assert serving.performance.history("served-new").count == before + 1


def test_a_failing_agent_is_a_failure_on_both_ends(
    serving: EmergenceManager, calling: EmergenceManager, port: int
) -> None:
    """The server's exception reaches the client as an error; each counts one failure."""
    before = serving.performance.history("served-new").failures
    with pytest.raises(Exception):  # noqa: B017 - which one is the SDK's choice
        ask(calling, card_for(port), "fail", ClientConfig(streaming=False))
    assert calling.performance.history("fast").failures == 1
    assert serving.performance.history("served-new").failures == before + 1


def test_an_agent_that_is_away_is_a_failure(calling: EmergenceManager) -> None:
    """The SDK's interceptors never hear of it; the transport does."""
    with pytest.raises(Exception):  # noqa: B017
        ask(calling, card_for(1), "hello", ClientConfig())
    assert calling.performance.history("fast").failures == 1


def test_where_nothing_fits_the_call_goes_out_as_it_is(
    calling: EmergenceManager, serving: EmergenceManager, port: int
) -> None:
    """An agent without streaming: no variant, no header, and nothing is counted."""
    card = card_for(port)
    card.capabilities.streaming = False
    assert ask(calling, card, "hello", ClientConfig()) == "hello served-old - - -"
    assert calling.performance.history("fast").count == 0


def test_a_binding_is_a_variant(calling: EmergenceManager, port: int) -> None:
    """A variant that names a binding decides which interface a client talks to."""
    rest = calling.variants.propose("rest", {"binding": "HTTP+JSON"}, id="rest")
    calling.variants.activate(rest, force=True)
    for _ in range(200):
        calling.report("rest", "x", success=True, latency_ms=1.0)
        calling.report("fast", "x", success=False, latency_ms=900.0)
    config = ClientConfig(supported_protocol_bindings=["JSONRPC", "HTTP+JSON"])
    client = VariantClientFactory(calling, config).create(card_for(port))
    assert "Rest" in type(client._transport.inner).__name__
    asyncio.run(client.close())


def test_a_card_is_an_agent() -> None:
    """Capabilities with the newest version of each binding, by the rules of versions."""
    card = card_for(9)
    card.supported_interfaces.append(
        AgentInterface(url="http://h/", protocol_binding="JSONRPC", protocol_version="1.10")
    )
    card.supported_interfaces.append(
        AgentInterface(url="http://h/", protocol_binding="JSONRPC", protocol_version="1.9")
    )
    extension = AgentExtension(uri=EXTENSION)
    extension.params.update({"preferences": {"latency": 0.7, "bad": -1}, "platform": "linux"})
    card.capabilities.extensions.append(extension)
    agent = agent_of(card)
    assert agent.id == "http://127.0.0.1:9/rpc"
    assert agent.context.capabilities["binding.JSONRPC"] == "1.10"
    assert agent.context.capabilities["binding.HTTP+JSON"] == "1.0"
    assert agent.context.capabilities["streaming"] is True
    assert agent.context.capabilities["skill.echo"] is True
    assert agent.context.capabilities[f"ext.{EXTENSION}"] is True
    assert dict(agent.context.preferences) == {"latency": 0.7}
    assert (agent.context.version, agent.context.platform) == ("2.1", "linux")


def test_the_card_says_what_is_spoken(serving: EmergenceManager, port: int) -> None:
    """Active variants with their requirements, under the extension."""
    found: dict[str, Any] = httpx.get(
        f"http://127.0.0.1:{port}/.well-known/agent-card.json", timeout=30
    ).json()
    (extension,) = found["capabilities"]["extensions"]
    assert extension["uri"] == EXTENSION
    assert extension["params"]["variants"] == {
        "served-old": {"requirements": {}},
        "served-new": {"requirements": {"ext.urn:new": True}},
    }


def test_a_registered_caller_has_its_registered_capabilities(
    serving: EmergenceManager, port: int
) -> None:
    """What the caller requests does not make it more than it is."""
    serving.agents.register("anonymous", AgentContext({}))
    body = {
        "jsonrpc": "2.0",
        "id": 1,
        "method": "SendMessage",
        "params": {
            "message": {"messageId": "1", "role": "ROLE_USER", "parts": [{"text": "hello"}]}
        },
    }
    answer = httpx.post(
        f"http://127.0.0.1:{port}/rpc",
        json=body,
        headers={"A2A-Extensions": "urn:new", "A2A-Version": "1.0"},
        timeout=30,
    ).json()
    assert answer["result"]["message"]["parts"][0]["text"] == "hello served-old - - -"
