"""Real containers for tests. Where no engine answers the tests are skipped; REQUIRE_ENGINE=1 makes that a failure.

Starting a stack takes seconds, so tests that do not disturb each other share one. What the containers of the
stacks that run wrote is shown where a test fails.
"""

import contextlib
import itertools
import os
from collections.abc import Callable, Generator, Iterator, Mapping
from pathlib import Path

import pytest

from greenstack.cli import base_images, environment
from greenstack.cli.docker import why_none
from tests.container.project import PROBE, ROOT, Stack, docker

FOLDER = Path(__file__).parent
RUNNING: list[Stack] = []
_NUMBERS = itertools.count(1)
Start = Callable[..., Stack]

# Quick to stop, whatever a stop has to wait for: 2.2 s of drain, 8 s in all.
QUICK = {"KEEP_ALIVE": "2", "GRACEFUL_TIMEOUT": "8", "STOP_GRACE_PERIOD": "20s"}


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    # One line about a missing engine is enough.
    others = [item for item in items if item.path.parent == FOLDER and "engine" in getattr(item, "fixturenames", ())][
        1:
    ]
    if others and why_none():
        config.hook.pytest_deselected(items=others)
        items[:] = [item for item in items if item not in others]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.failed and item.path.parent == FOLDER:
        report.sections += [(f"containers of {stack.name}", stack.logs()) for stack in RUNNING]
    return report


@pytest.fixture(scope="session")
def engine() -> None:
    if reason := why_none():
        message = f"no test with containers: no Docker Engine: {reason}"
        if os.environ.get("REQUIRE_ENGINE") == "1":
            pytest.fail(f"{message}, and REQUIRE_ENGINE=1")
        pytest.skip(message)


@pytest.fixture(scope="session")
def bases(engine: None) -> dict[str, str]:
    """The variables that make builds work here: base images that this machine has or can make, CA bundle."""
    here = environment.resolve("")
    names = {"PYTHON_IMAGE", "NGINX_BASE_IMAGE", "CA_BUNDLE"}
    named = {name: value for name, value in here.values.items() if name in names}
    return {**named, **base_images.choices(here)}


@pytest.fixture(scope="session")
def built(bases: dict[str, str]) -> Iterator[dict[str, str]]:
    """The images under names of our own, built once; the variables that choose them."""
    names = {"APP_IMAGE": "ct-app", "NGINX_IMAGE": "ct-nginx", "TAG": f"test-{os.getpid()}", "REVISION": "ct-revision"}
    choice = {**bases, **names}
    Stack("ct-build", choice).compose("build")
    yield choice
    docker("image", "rm", "--force", f"ct-app:{names['TAG']}", f"ct-nginx:{names['TAG']}")


@pytest.fixture(scope="session")
def app_image(built: dict[str, str]) -> str:
    return f"{built['APP_IMAGE']}:{built['TAG']}"


@pytest.fixture(scope="session")
def nginx_image(built: dict[str, str]) -> str:
    return f"{built['NGINX_IMAGE']}:{built['TAG']}"


@contextlib.contextmanager
def _factory(built: Mapping[str, str]) -> Iterator[Start]:
    mine: list[Stack] = []

    def make(
        settings: Mapping[str, str] | None = None,
        *arguments: str,
        probe: bool = False,
        up: bool = True,
        images: Mapping[str, str] = built,
        root: Path = ROOT,
        env_files: tuple[str, ...] = (),
    ) -> Stack:
        ours = {"COMPOSE_FILE": PROBE, "APP_MODULE": "probe:app"} if probe else {}
        chosen = {**images, **ours, **(settings or {})}
        stack = Stack(f"ct{os.getpid()}-{next(_NUMBERS)}", chosen, root, env_files)
        mine.append(stack)
        RUNNING.append(stack)
        if up:
            stack.up(*arguments)
        return stack

    try:
        yield make
    finally:
        for stack in mine:
            RUNNING.remove(stack)
            stack.down()


@pytest.fixture
def start(built: dict[str, str]) -> Iterator[Start]:
    """Start a stack under the settings given, gone when the test ends; `probe` makes probe.py the application."""
    with _factory(built) as make:
        yield make


@pytest.fixture(scope="module")
def start_shared(built: dict[str, str]) -> Iterator[Start]:
    """The same for all tests of a module."""
    with _factory(built) as make:
        yield make


@pytest.fixture(scope="session")
def default(built: dict[str, str]) -> Iterator[Stack]:
    """The stack as it is without any setting; for tests that leave it as they found it."""
    with _factory(built) as make:
        yield make()
