"""Variants between stores: the same content, its digest, its signature, and what is in the way."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from xenolect import (
    AccessError,
    CorruptError,
    EmergenceManager,
    InvalidError,
    InvalidVariantError,
    LimitError,
    VariantNotFoundError,
)
from xenolect.cli import main


@pytest.fixture
def here(tmp_path: Path) -> Iterator[EmergenceManager]:
    """A store with a parent and a child, one of them in use."""
    with EmergenceManager.open(tmp_path / "here", background=False) as manager:
        manager.variants.activate(manager.variants.propose("plain", {"wire": "json"}, id="json"))
        manager.variants.propose(
            "zstd",
            {"wire": "zstd", "deep": {"ä": [1, 2.5, None]}},
            id="zstd",
            parent_id="json",
            requirements={"zstd": ">=1.5"},
            optional={"dict": True},
            conflicts={"gzip": "only"},
            metadata={"team": "wire"},
        )
        yield manager


@pytest.fixture
def there(tmp_path: Path) -> Iterator[EmergenceManager]:
    """Another store."""
    with EmergenceManager.open(tmp_path / "there", background=False) as manager:
        yield manager


def test_content_arrives_as_proposed(
    here: EmergenceManager, there: EmergenceManager, tmp_path: Path
) -> None:
    """Equal content, no status; a second import finds the same; changed content is a conflict."""
    path = tmp_path / "variants.json"
    assert here.variants.export(None, path) == 2
    done = there.variants.import_(path)
    assert (done.imported, done.same, done.conflicts) == (("json", "zstd"), (), {})
    for name in ("json", "zstd"):
        ours, theirs = here.variants.get(name), there.variants.get(name)
        assert theirs.status == "proposed"
        for field in ("description", "changes", "requirements", "optional", "metadata"):
            assert getattr(ours, field) == getattr(theirs, field)
        assert ours.parent_id == theirs.parent_id
    assert there.variants.import_(path).same == ("json", "zstd")
    there.variants.update("zstd", expected_version=1, description="ours")
    again = there.variants.import_(path)
    assert again.same == ("json",)
    assert again.conflicts == {"zstd": "the id is taken here by other content"}
    assert there.variants.get("zstd").description == "ours"


def test_a_parent_that_stays_behind(
    here: EmergenceManager, there: EmergenceManager, tmp_path: Path
) -> None:
    """An unknown parent is no reason to refuse; the variant comes without one."""
    here.variants.export(["zstd"], tmp_path / "v.json")
    assert there.variants.import_(tmp_path / "v.json").imported == ("zstd",)
    assert there.variants.get("zstd").parent_id is None
    with pytest.raises(VariantNotFoundError):
        here.variants.export(["nothing"], tmp_path / "w.json")
    assert not (tmp_path / "w.json").exists()


def test_a_signature_holds_or_nothing_comes_in(
    here: EmergenceManager, there: EmergenceManager, tmp_path: Path
) -> None:
    """Trusted keys get in; others, none, and edits after signing do not."""
    path = tmp_path / "v.json"
    key = Ed25519PrivateKey.generate()
    public = key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
    other = Ed25519PrivateKey.generate().public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
    here.variants.export(["json"], path)
    with pytest.raises(AccessError, match=r"signed by nobody.*nothing was imported"):
        there.variants.import_(path, trust=[public])
    here.variants.export(["json"], path, key=key)
    with pytest.raises(AccessError, match="none of the keys you trust"):
        there.variants.import_(path, trust=[other])
    document = json.loads(path.read_text())
    forged = {**document, "signature": {**document["signature"], "signature": "AAAA"}}
    path.write_text(json.dumps(forged))
    with pytest.raises(CorruptError, match="does not hold"):
        there.variants.import_(path)
    assert there.variants.list() == []
    path.write_text(json.dumps(document))
    done = there.variants.import_(path, trust=[other, base64.b64encode(public).decode()])
    assert done.signed_by == base64.b64encode(public).decode()


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        (lambda d: d["variants"][0].update(description="edited"), CorruptError, "digest differs"),
        (lambda d: d.update(version=2), InvalidError, "reads up to 1"),
        (lambda d: d.update(format="else"), InvalidError, "is no file of variants"),
        (lambda d: d.update(variants=[1]), CorruptError, "lists no variants"),
        (lambda d: d.update(sha256=None), CorruptError, "digest differs"),
    ],
)
def test_edited_files_are_refused(
    here: EmergenceManager,
    there: EmergenceManager,
    tmp_path: Path,
    change: Any,
    error: type[Exception],
    words: str,
) -> None:
    """With what is wrong, and nothing imported."""
    path = tmp_path / "v.json"
    here.variants.export(None, path)
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(document))
    with pytest.raises(error, match=words):
        there.variants.import_(path)
    assert there.variants.list() == []


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        '{"a": 1, "a": 2}',
        "[" * 100_000,
        '{"a": NaN}',
        "\ud800".encode(errors="surrogatepass"),
    ],
)
def test_what_is_no_json_is_refused(there: EmergenceManager, tmp_path: Path, text: Any) -> None:
    """Typed errors for anything that a file may hold."""
    path = tmp_path / "v.json"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises((CorruptError, InvalidError)):
        there.variants.import_(path)


def test_forged_content_is_checked_like_a_proposal(
    here: EmergenceManager, there: EmergenceManager, tmp_path: Path
) -> None:
    """A digest says nothing about sense: ids that leave the store and bad predicates are refused."""
    from xenolect._exchange import write_file

    path = tmp_path / "v.json"
    for bad in ({"id": "../x"}, {"requirements": {"zstd": {"nonsense": 1}}}, {"description": ""}):
        write_file(path, [{"id": "a", "description": "d", "changes": {}, **bad}], None)
        with pytest.raises(InvalidVariantError):
            there.variants.import_(path)
    assert there.variants.list() == []


def test_room_is_checked_before(here: EmergenceManager, tmp_path: Path) -> None:
    """All or none."""
    here.variants.export(None, tmp_path / "v.json")
    with EmergenceManager.open(tmp_path / "small", max_variants=1, background=False) as small:
        with pytest.raises(LimitError, match="max_variants is 1"):
            small.variants.import_(tmp_path / "v.json")
        assert small.variants.list() == []


def test_the_commands(here: EmergenceManager, tmp_path: Path) -> None:
    """Export, import, import again into a store that changed: exit codes 0, 0, 4."""
    here.close()
    path, there = str(tmp_path / "v.json"), str(tmp_path / "there")

    def run(*words: str) -> Any:
        return CliRunner().invoke(main, words)

    assert run("init", "--storage", there).exit_code in (0, 2)
    with EmergenceManager.open(there):
        pass
    done = run("variants", "export", path, "--storage", str(tmp_path / "here"))
    assert (done.exit_code, done.output.strip()) == (0, f"2 variants are in {path}")
    done = run("variants", "import", path, "--storage", there, "--json")
    assert done.exit_code == 0
    assert json.loads(done.output)["imported"] == ["json", "zstd"]
    with EmergenceManager.open(there) as manager:
        manager.variants.update("zstd", expected_version=1, description="ours")
    done = run("variants", "import", path, "--storage", there)
    assert done.exit_code == 4
    assert "left out: zstd" in done.output
