"""The pages say what the code does: every hook, error, setting and command has its place."""

from __future__ import annotations

import inspect
import re
import sys
import tomllib
from pathlib import Path
from types import ModuleType

import attrs
import pytest

from xenolect import errors, hookspecs
from xenolect._registry import KINDS, Registry
from xenolect.config import Config, Part, PluginsConfig, load

DOCS = Path(__file__).parent.parent / "docs"
HOOKS, ERRORS, CONFIG = (
    (DOCS / name).read_text("utf-8") for name in ("hooks.md", "errors.md", "config.md")
)
CONFIG, OPTIONS = CONFIG.split("\n## Options of the bundled parts\n")

SPECIFIED = [name for name in vars(hookspecs) if name.startswith("xenolect_")]
EXAMPLES = dict(
    re.findall(r"^### `(xenolect_\w+)\(.*?\)`\n(.*?)(?=^##|\Z)", HOOKS, re.MULTILINE | re.DOTALL)
)
ROWS = dict(re.findall(r"^\| `([a-z_.]+)` \| `(.*?)` \|", CONFIG, re.MULTILINE))
UNSET = re.findall(r"^\| `([a-z_.]+)` \| [^`|]+ \|", CONFIG, re.MULTILINE)


# -- hooks ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SPECIFIED)
def test_every_hook_has_its_signature_as_a_heading(name):
    """With the arguments as they are."""
    arguments = ", ".join(inspect.signature(getattr(hookspecs, name)).parameters)

    assert f"\n### `{name}({arguments})`\n" in HOOKS


def test_no_heading_is_of_a_hook_that_is_gone():
    """What has a heading exists."""
    assert sorted(EXAMPLES) == sorted(SPECIFIED)


@pytest.mark.parametrize("name", SPECIFIED)
def test_every_example_is_a_plugin_that_loads(name, caplog):
    """Each block of a hook's section is a module that the registry takes without a complaint."""
    blocks = re.findall(r"^```python\n(.*?)^```", EXAMPLES[name], re.MULTILINE | re.DOTALL)
    kinds = {hook: kind for kind, (hook, _noun) in KINDS.items()}

    assert blocks
    for block in blocks:
        module = ModuleType(f"example_of_{name}")
        exec(compile(block, f"docs/hooks.md, {name}", "exec"), module.__dict__)
        registry = Registry.collect(PluginsConfig(third_party=False), [module], bundled=())
        (record,) = registry.describe()
        assert (record.status, record.why) == ("loaded", "")
        if name in kinds:
            assert list(record.offers) == [kinds[name]]
        elif name == "xenolect_commands":
            assert [each.offer.make().name for each in registry.commands()] == ["command"]
        else:
            assert record.observes
    assert caplog.records == []


# -- errors ---------------------------------------------------------------------------------------


def test_every_code_has_a_heading_and_every_heading_a_code():
    """In ``docs/errors.md``; the section names the class."""
    classes = {
        value.code: name
        for name, value in vars(errors).items()
        if inspect.isclass(value) and issubclass(value, errors.EmergenceError)
    }
    sections = dict(re.findall(r"^## ([a-z-]+)\n\n`(\w+)`", ERRORS, re.MULTILINE))

    assert sections == classes
    assert len(classes) == len(errors.__all__)


# -- settings -------------------------------------------------------------------------------------


def settings(config, path=""):
    """Every setting of the tree, ``path -> default``, in the words a row uses."""
    for field in attrs.fields(type(config)):
        name, value = path + field.name, getattr(config, field.name)
        if name == "scoring":
            yield from ((f"scoring.{scorer}", part.weight) for scorer, part in value.items())
        elif name == "canary.judge":
            yield name, value.use
        elif isinstance(value, Part):
            yield f"{name}.use", value.use
        elif attrs.has(type(value)):
            yield from settings(value, f"{name}.")
        else:
            yield name, value


def test_every_setting_has_a_row():
    """And every row a setting; those without a default have a table of their own."""
    known = dict(settings(Config()))

    assert sorted(ROWS) == sorted(name for name, value in known.items() if value is not None)
    assert sorted(set(UNSET)) == sorted(name for name, value in known.items() if value is None)


def test_the_defaults_in_the_rows_are_the_defaults():
    """All rows together, written as a file, give the default configuration."""
    table: dict = {}
    for name, text in ROWS.items():
        *steps, last = name.split(".")
        inner = table
        for step in steps:
            inner = inner.setdefault(step, {})
        inner[last] = tomllib.loads(f"value = {text}")["value"]

    assert load(environ={}, **table) == Config()


def option_class(make):
    """The attrs class that holds the options of an offer, or None."""
    if isinstance(make, type):
        return make if attrs.has(make) else None
    for annotation in inspect.get_annotations(make).values():
        kind = vars(sys.modules[make.__module__]).get(annotation, annotation)
        if isinstance(kind, type) and attrs.has(kind):
            return kind
    return None


def test_every_option_of_a_bundled_part_has_a_row():
    """Under a heading ``KIND: NAME``. The options of the ramp are made from ``[canary]``."""
    sections = {
        (kind, name): re.findall(r"^\| `(\w+)` \|", body, re.MULTILINE)
        for kind, name, body in re.findall(
            r"^### (\w+): `([a-z0-9._-]+)`\n(.*?)(?=^###|\Z)", OPTIONS, re.MULTILINE | re.DOTALL
        )
    }
    registry = Registry.collect(PluginsConfig(third_party=False))
    wanted = {}
    for kind in (
        "chunks",
        "index",
        "cipher",
        "keys",
        "scoring",
        "compatibility",
        "safeguards",
        "judges",
    ):
        for each in registry.offers(kind):
            options = option_class(each.offer.make)
            fields = [f.alias for f in attrs.fields(options) if f.init] if options else []
            if fields and (kind, each.name) != ("safeguards", "canary"):
                wanted[kind, each.name] = fields

    assert sections == wanted


def test_the_examples_of_settings_are_settings(tmp_path):
    """Each TOML block of ``docs/config.md`` is a file that loads."""
    for block in re.findall(r"^```toml\n(.*?)^```", CONFIG, re.MULTILINE | re.DOTALL):
        file = tmp_path / "xenolect.toml"
        file.write_text(block)

        assert load(file, environ={}) != Config()


# -- commands, links and the site -----------------------------------------------------------------


def test_every_command_has_a_heading_and_every_option_a_row():
    """In ``docs/commands.md``, which ``python -m tests.commands_page`` writes; nothing else has one."""
    from tests.commands_page import COMMON, commands

    text = (DOCS / "commands.md").read_text("utf-8")
    sections = dict(
        re.findall(r"^#{2,3} `([a-z -]+)`\n(.*?)(?=^#{2,3} `|\Z)", text, re.MULTILINE | re.DOTALL)
    )
    known = dict(commands())

    assert sorted(sections) == sorted(known)
    for path, command in known.items():
        for parameter in command.params:
            names = parameter.opts if parameter.param_type_name == "option" else ()
            if parameter.name not in COMMON:
                assert all(f"`{', '.join(names)}" in sections[path] for _ in names), (path, names)


def test_no_option_is_without_words():
    """``--help`` says of every option what it is."""
    from tests.commands_page import commands

    silent = [
        (path, parameter.opts)
        for path, command in commands()
        for parameter in command.params
        if parameter.param_type_name == "option" and not getattr(parameter, "help", None)
    ]

    assert silent == []


def test_every_page_is_in_the_navigation():
    """And what the navigation names is a page. A page that nobody finds is not read."""
    site = (DOCS.parent / "mkdocs.yml").read_text("utf-8")
    named = re.findall(r"^ +- ([a-z-]+\.md)$", site, re.MULTILINE)

    assert sorted(named) == sorted(file.name for file in DOCS.glob("*.md"))


LINK = re.compile(r"(?<!!)\[[^\]]+\]\(([^)\s]+)\)")
PICTURE = re.compile(r"!\[[^\]]*\]\(([^)\s]+)\)")
PAGES = [DOCS.parent / "README.md", DOCS.parent / "CONTRIBUTING.md", *sorted(DOCS.glob("*.md"))]
PAGES += sorted(DOCS.parent.glob("contrib/*/README.md"))


def anchors(page):
    """What its headings are called in an address."""
    text = re.sub(r"^```.*?^```", "", page.read_text("utf-8"), flags=re.MULTILINE | re.DOTALL)
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    plain = [re.sub(r"[^\w\s-]", "", heading).strip().lower() for heading in headings]
    return {re.sub(r"[\s-]+", "-", heading) for heading in plain}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(DOCS.parent)))
def test_no_link_leads_nowhere(page):
    """Files exist, headings exist; addresses elsewhere are encrypted ones."""
    text = re.sub(r"^```.*?^```", "", page.read_text("utf-8"), flags=re.MULTILINE | re.DOTALL)
    for target in [*LINK.findall(text), *PICTURE.findall(text)]:
        if "://" in target:
            assert target.startswith("https://"), target
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path) if path else page
        assert file.is_file(), target
        assert not anchor or anchor in anchors(file), target
