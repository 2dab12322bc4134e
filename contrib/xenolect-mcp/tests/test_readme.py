"""README and page tell the truth: their programs run as printed, one after the other."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from mcp import Client
from servers import MODERN, behind_http, in_meta, user
from xenolect_mcp import EmergenceMiddleware

README = Path(__file__).parents[1] / "README.md"
PAGE = Path(__file__).parents[3] / "docs" / "contrib.md"


def programs(page: Path) -> list[str]:
    """The Python blocks of a page."""
    return re.findall(r"^```python\n(.*?)^```", page.read_text("utf-8"), re.MULTILINE | re.DOTALL)


@pytest.fixture
def told(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[dict[str, Any]]:
    """What the programs define, run in an empty folder."""
    page = getattr(request, "param", README)
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {"__name__": "page"}
    try:
        for program in programs(page):
            exec(compile(program, str(page), "exec"), names)
        yield names
    finally:
        if "manager" in names:
            names["manager"].close()


def test_the_programs_do_what_is_said(told: Any) -> None:
    """A client of the server is served and counted; a contract is rolled out; the wire is packed."""
    result = asyncio.run(told["ask"](told["server"]))
    assert result.structured_content == {"celsius": 21, "humidity": 40}
    assert result.meta["io.xenolect/variants"] == {"variant": "plain"}
    assert told["manager"].performance.history("plain").count == 1
    assert told["manager"].canaries.status("celsius").state == "ramping"
    with behind_http(told["app"]) as url:
        exchange = asyncio.run(told["packed"](url))
    assert exchange.answered == "dcz"
    assert exchange.received < exchange.plain


def test_the_contract_is_kept_by_the_tool(told: Any) -> None:
    """Under the variant the example's tool returns what the variant declares: no failure."""
    manager = told["manager"]
    manager.canaries.promote("celsius", force=True)
    told["server"].middleware[-1] = EmergenceMiddleware(manager, principal=in_meta)

    async def play() -> Any:
        async with Client(told["server"], mode=MODERN, cache=None) as client:
            (tool,) = (await client.list_tools(meta=user("alice"))).tools
            assert tool.description == "Temperature of a city in degrees Celsius"
            assert tool.output_schema is not None
            assert tool.output_schema["required"] == ["celsius"]
            for _ in range(3):
                await client.call_tool("forecast", {"city": "Oslo"}, meta=user("alice"))

    asyncio.run(play())
    history = manager.performance.history("celsius")
    assert (history.count, history.failures) == (3, 0)


@pytest.mark.skipif(not PAGE.exists(), reason="the pages are in the repository only")
@pytest.mark.parametrize("told", [PAGE], indirect=True)
def test_the_page_does_what_is_said(told: Any) -> None:
    """The server of the page answers the client of the page; its rollout runs."""
    result = asyncio.run(told["ask"](told["server"]))
    assert result.is_error  # the page's server has no such tool
    assert result.meta["io.xenolect/variants"] == {"variant": "plain"}
    assert told["manager"].canaries.status(told["celsius"]).state == "ramping"
