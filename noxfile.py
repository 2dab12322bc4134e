"""Everything that is checked, one session each: ``nox -s tests`` is the one that must pass.

What is tested is what is shipped: a wheel, built from the source distribution, installed beside the
distributions of ``contrib/`` as a stranger would install them. Nothing is imported from the tree.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import nox

nox.needs_version = ">=2025.2.9"
nox.options.sessions = ["tests", "lint", "typing", "rooms"]
nox.options.error_on_missing_interpreters = False  # `matrix` runs those that are there

ROOT = Path(__file__).parent
PYPROJECT = nox.project.load_toml("pyproject.toml")
CONTRIB = sorted(path.parent for path in ROOT.glob("contrib/*/pyproject.toml"))


def group(name: str) -> list[str]:
    """The requirements of a dependency group."""
    return list(nox.project.dependency_groups(PYPROJECT, name))


def wheel(session: nox.Session, source: Path) -> Path:
    """Build the source distribution of ``source``, and the wheel from that, not from the tree."""
    session.install("build")
    out = Path(session.create_tmp()) / "dist" / source.name
    shutil.rmtree(out, ignore_errors=True)
    session.run("python", "-m", "build", "--outdir", str(out), str(source), silent=True)
    (built,) = out.glob("*.whl")
    return built


def install(session: nox.Session, *, contrib: bool, extras: str = "testing") -> None:
    """The wheel with its testing extra, then each contrib distribution beside it."""
    session.install(f"{wheel(session, ROOT)}[{extras}]", *group("s3" if "s3" in extras else "test"))
    if contrib:
        for source in CONTRIB:
            # xenolect is there already, so pip takes this one and not a stranger of the same name.
            session.install(str(wheel(session, source)), *test_group(source))


def test_group(source: Path) -> list[str]:
    """What the tests of a contrib distribution need beside it: its own group "test"."""
    project = nox.project.load_toml(source / "pyproject.toml")
    if "test" not in project.get("dependency-groups", {}):
        return []
    return list(nox.project.dependency_groups(project, "test"))


def run_tests(session: nox.Session, *arguments: str) -> None:
    """pytest on ``tests/``, against what is installed."""
    session.run("python", "-m", "pytest", *(arguments or ("tests",)), *session.posargs)


def run_contrib(session: nox.Session, marked: str = "not slow") -> None:
    """Each contrib distribution's own tests, one after the other."""
    none = [0, 5] if marked == "slow" else [0]  # pytest's code where no test is marked so
    for source in CONTRIB:
        arguments = [str((source / "tests").relative_to(ROOT)), "-m", marked, *session.posargs]
        session.run("python", "-m", "pytest", *arguments, success_codes=none)


@nox.session
def tests(session: nox.Session) -> None:
    """The wheel and every contrib distribution in one environment: all tests but the slow ones."""
    install(session, contrib=True)
    run_tests(session, "tests", "-m", "not slow", "-n", "auto", "--dist", "worksteal")
    run_contrib(session)


@nox.session
def slow(session: nox.Session) -> None:
    """The tests marked slow: large states, many processes, simulations."""
    install(session, contrib=True)
    run_tests(session, "tests", "-m", "slow and not s3", "--timeout", "1800")
    run_contrib(session, "slow")


@nox.session
def s3(session: nox.Session) -> None:
    """Object storage against real S3 services, which the tests start: nothing is skipped here."""
    install(session, contrib=False, extras="testing,s3,obstore")
    run_tests(session, "tests", "-m", "s3 and not sweep")


@nox.session
def s3_sweep(session: nox.Session) -> None:
    """Faults at each request of what a manager does on object storage: ten minutes and more."""
    install(session, contrib=False, extras="testing,s3,obstore")
    run_tests(session, "tests", "-m", "s3 and sweep")


@nox.session
def contrib(session: nox.Session) -> None:
    """The contrib distributions alone, beside the wheel."""
    install(session, contrib=True)
    run_contrib(session)


@nox.session(python=["3.11", "3.12", "3.13"])
def matrix(session: nox.Session) -> None:
    """``tests`` on every Python that is there."""
    install(session, contrib=True)
    run_tests(session, "tests", "-m", "not slow", "-n", "auto", "--dist", "worksteal")
    run_contrib(session)


@nox.session(python="3.11")
def minimum(session: nox.Session) -> None:
    """``tests`` with the lowest version of everything that is named in pyproject.toml."""
    session.install("uv")
    lowest = ["--resolution", "lowest-direct", "--python", session.virtualenv.location]
    built = wheel(session, ROOT)
    session.run("uv", "pip", "install", *lowest, f"{built}[testing]", *group("test"))
    run_tests(session, "tests", "-m", "not slow and not s3")


@nox.session
def stranger(session: nox.Session) -> None:
    """In a folder outside of the repository: the wheel without extras, one plugin by its path, a program."""
    with tempfile.TemporaryDirectory() as place:
        session.install(str(wheel(session, ROOT)))
        session.chdir(place)
        session.run("xenolect", "new-plugin", "scorer", "near-by")
        session.install("./xenolect-near-by")
        Path("program.py").write_text(STRANGER, "utf-8")
        session.run("python", "-P", "program.py")
        session.run("xenolect", "plugins")
        session.chdir(ROOT)


STRANGER = """
from pathlib import Path

import xenolect
from xenolect import AgentContext, EmergenceManager

assert not Path(xenolect.__file__).is_relative_to(Path.cwd()), "a wheel was to be imported"
with EmergenceManager.open("variants/", scoring={"near-by": {"weight": 1.0, "goal_ms": 20}}) as manager:
    manager.variants.activate(manager.variants.propose("plain", {"wire": "json"}, id="plain"))
    manager.agents.register("agent-7", AgentContext())
    with manager.call("agent-7") as call:
        assert call.variant.changes == {"wire": "json"}
    assert set(manager.explain("agent-7")[0].parts) == {"near-by"}
    (plugin,) = [each for each in manager.plugins() if each.name == "near-by"]
    print(plugin.source, plugin.status, plugin.offers)
"""


@nox.session
def typing(session: nox.Session) -> None:
    """mypy --strict on the three roots; pyright on the public face as a user's editor sees it."""
    session.install("-e", ".[testing,async]", *group("typing"))
    session.run("mypy")
    session.run("pyright", "tests/typing/api.py")


@nox.session
def rooms(session: nox.Session) -> None:
    """Who imports whom."""
    session.install("-e", ".[testing]", *group("lint"))
    session.run("lint-imports", "--no-cache")


@nox.session
def lint(session: nox.Session) -> None:
    """ruff, as a linter and as a formatter."""
    session.install(*group("lint"))
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")


@nox.session
def docs(session: nox.Session) -> None:
    """The pages as a site, in ``site/``. A warning is an error; so is a link or an anchor to nowhere."""
    session.install(*group("docs"))
    session.run("mkdocs", "build", "--strict", *session.posargs, env={"NO_MKDOCS_2_WARNING": "1"})


@nox.session
def bench(session: nox.Session) -> None:
    """The promised numbers, as ratios to floors measured in the same run. Prints; gates nothing.

    ``--peers`` adds other packages that do such work, ``--plot FILE`` a page that shows what grows.
    """
    others = group("peers") if "--peers" in session.posargs else ()
    session.install(str(wheel(session, ROOT)) + "[testing]", *group("test"), *others)
    session.run("xenolect", "bench", *session.posargs)


@nox.session
def changelog(session: nox.Session) -> None:
    """What the next release's notes will say."""
    session.install("towncrier")
    session.run("towncrier", "build", "--draft", "--version", "next")
