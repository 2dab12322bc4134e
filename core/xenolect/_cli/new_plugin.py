"""``xenolect new-plugin``: a distribution with one working plugin, to be rewritten."""

from __future__ import annotations

import re
from importlib.resources import files
from pathlib import Path
from string import Template

import attrs
import click

from xenolect import errors
from xenolect._cli.common import Output, say

__all__ = ["KINDS", "written"]

_NAME = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")
_LONGEST = 40


@attrs.frozen
class Kind:
    """What differs between kinds: a sentence, the settings that use it, further requirements.

    ``registered``: the kind of offer in the registry, where a name can be taken already.
    """

    summary: str
    settings: str = ""
    requires: tuple[str, ...] = ()
    registered: str = ""


_CRYPTOGRAPHY = ("cryptography>=50",)

KINDS = {
    "chunk-store": Kind(
        "a store of immutable objects", '[chunks]\nuse = "$name"\npath = "chunks.db"', (), "chunks"
    ),
    "cipher": Kind(
        "a cipher", '[cipher]\nuse = "$name"\nkey = { env = "MY_KEY" }', _CRYPTOGRAPHY, "cipher"
    ),
    "command": Kind("a command of the command line"),
    "index": Kind("an index", '[index]\nuse = "$name"\npath = "index.db"', (), "index"),
    "judge": Kind("a judge of canaries", '[canary]\njudge = "$name"', (), "judges"),
    "keys": Kind(
        "a provider of keys that wrap keys",
        '[cipher]\nuse = "aes-gcm"\nkeys = { use = "$name", folder = "/etc/xenolect/keys" }',
        _CRYPTOGRAPHY,
        "keys",
    ),
    "migration": Kind('a migration of states of the protocol "$name"'),
    "observer": Kind("an observer of events"),
    "proposer": Kind("a proposer of new variants", "", (), "proposers"),
    "rule": Kind(
        "a rule of compatibility",
        '[compatibility]\nrules = ["capabilities", "$name"]',
        (),
        "compatibility",
    ),
    "safeguard": Kind("a circuit breaker", '[breaker]\nuse = "$name"', (), "safeguards"),
    "scorer": Kind(
        "a scorer",
        "[scoring]\ncompatibility = 0.5\n$name = { weight = 0.5, goal_ms = 30 }",
        (),
        "scoring",
    ),
}

PYPROJECT = """\
[build-system]
requires = ["hatchling>=1.25"]
build-backend = "hatchling.build"

[project]
name = "$distribution"
version = "0.1.0"
description = "$summary for xenolect"
readme = "README.md"
requires-python = ">=3.11"
dependencies = [$requires]

[project.optional-dependencies]
test = ["xenolect[testing]"]

[project.entry-points.xenolect]
$name = "$module"

[tool.hatch.build.targets.wheel]
only-include = ["$module.py"]

[tool.pytest.ini_options]
testpaths = ["tests"]
"""

README = """\
# $distribution

$Summary for [xenolect](https://pypi.org/project/xenolect/).

```
pip install -e ".[test]"
pytest
xenolect plugins
```
$use
The module is `$module.py`; an entry point in `pyproject.toml` names it, and `pip install` is all that is needed for
xenolect to find it. It does something already, so that its tests are green: rewrite it step by step.
"""


@click.command("new-plugin")
@click.argument("kind", metavar="KIND", type=click.Choice(sorted(KINDS)))
@click.argument("name")
@click.option(
    "--dir",
    "folder",
    type=click.Path(path_type=Path),
    default=Path(),
    help="Where the new folder goes (default: here).",
)
@click.option("--json", "machine", is_flag=True, help="One JSON document on standard output.")
def command(kind: str, name: str, folder: Path, machine: bool) -> None:
    """Write a distribution with one working plugin of a KIND, called NAME, and its tests.

    KIND: chunk-store, cipher, command, index, judge, keys, migration, observer, proposer, rule,
    safeguard, scorer. What is written works, and its tests run the kit of its kind.
    """
    output = Output(machine)
    try:
        place = written(kind, name, folder)
    except errors.EmergenceError as error:
        raise SystemExit(output.fail(error)) from None
    except OSError as error:
        away = errors.StorageError(f"{error.filename or folder}: {error.strerror}")
        raise SystemExit(output.fail(away)) from None
    names = sorted(str(each.relative_to(place)) for each in place.rglob("*") if each.is_file())

    def text() -> None:
        say(f"written   {place}: {', '.join(names)}")
        say(f'next      cd {place} && pip install -e ".[test]" && pytest && xenolect plugins')

    output.show({"folder": str(place), "files": names}, text)


def written(kind: str, name: str, folder: Path) -> Path:
    """Write the distribution; its folder. InvalidError, DuplicateError."""
    name = name.removeprefix("xenolect-")
    if not _NAME.fullmatch(name) or len(name) > _LONGEST:
        raise errors.InvalidError(
            f"{name!r} is no name; it begins with a letter and is of a-z, 0-9 and single '-', at most "
            f"{_LONGEST} characters, as in near-by"
        )
    _refuse_taken(kind, name)
    place = folder / f"xenolect-{name}"
    if place.exists():
        raise errors.DuplicateError(f"{place} exists already; choose another name or --dir")
    for path, text in _contents(kind, name).items():
        file = place / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
    return place


def _refuse_taken(kind: str, name: str) -> None:
    """Two offers of one name are an error when it is used: say so before anything is written."""
    if kind == "command":
        from xenolect.cli import COMMANDS, ELSEWHERE

        taken = name in COMMANDS or name in ELSEWHERE
    else:
        from xenolect._registry import Registry
        from xenolect.config import PluginsConfig

        offered = KINDS[kind].registered
        registry = Registry.collect(PluginsConfig(third_party=False)) if offered else None
        taken = registry is not None and name in {each.name for each in registry.offers(offered)}
    if taken:
        raise errors.InvalidError(
            f"xenolect has {KINDS[kind].summary} called {name!r} already; choose another name"
        )


def _contents(kind: str, name: str) -> dict[str, str]:
    """Path -> text."""
    about = KINDS[kind]
    module = f"xenolect_{name.replace('-', '_')}"
    words = {
        "name": name,
        "distribution": f"xenolect-{name}",
        "module": module,
        "Class": "".join(part.capitalize() for part in name.split("-")),
        "id": name[:16],
    }
    words["summary"] = Template(about.summary).substitute(words).replace('"', "'")
    words["Summary"] = words["summary"][0].upper() + words["summary"][1:]
    required = ("attrs>=24.2", *about.requires, f"xenolect>={_version()}")
    words["requires"] = ", ".join(f'"{each}"' for each in required)
    settings = Template(about.settings).substitute(words)
    words["use"] = f"\n```toml\n{settings}\n```\n" if settings else ""

    def filled(text: str) -> str:
        return Template(text).substitute(words)

    return {
        "pyproject.toml": filled(PYPROJECT),
        "README.md": filled(README),
        f"{module}.py": filled(_template(f"{kind}.py")),
        f"tests/test_{module.removeprefix('xenolect_')}.py": filled(
            _template(f"{kind}.test") + _template("found.test")
        ),
    }


def _template(name: str) -> str:
    return (files("xenolect._cli") / "templates" / f"{name}.txt").read_text("utf-8")


def _version() -> str:
    """The oldest version that a new plugin asks for: this one's first two numbers."""
    from importlib.metadata import version

    return ".".join(version("xenolect").split(".")[:2])
