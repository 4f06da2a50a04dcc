"""For all tests: what is shared by a run, whether one process runs it or several (pytest-xdist)."""

import contextlib
import fcntl
import itertools
import json
import os
import shutil
from collections.abc import Callable, Generator, Iterator, Mapping
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from greenstack.cli import base_images, environment
from greenstack.cli.docker import why_none
from greenstack.server import check
from tests.support.certificates import NAME, Authority
from tests.support.compose import PROBE, ROOT, Stack, docker
from tests.support.ports import free_port
from tests.support.programs import refuse_skip
from tests.support.secure import Acme

RUN = "GREENSTACK_TEST_RUN"  # names all images and projects of this run, those of its worker processes included
Start = Callable[..., Stack]
RUNNING: list[Stack] = []
_numbers = itertools.count(1)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--full", action="store_true", help="tests/chaos: reach the full figures, about half an hour")
    parser.addoption("--markdown", metavar="FILE", help="tests/chaos: write the table of figures there as well")


def pytest_configure() -> None:
    os.environ.setdefault(RUN, f"t{os.getpid()}")
    # How long an example takes says something about the machine alone.
    settings.register_profile("any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
    settings.load_profile("any machine")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    refuse_skip(report)
    if report.failed and {"start", "start_shared", "default"} & set(getattr(item, "fixturenames", ())):
        report.sections += [(f"containers of {stack.name}", stack.logs()) for stack in RUNNING]
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    report = yield
    refuse_skip(report)
    return report


def pytest_unconfigure(config: pytest.Config) -> None:
    """Remove the images that the run has built, when the last process has ended."""
    if hasattr(config, "workerinput") or not shutil.which("docker"):
        return
    run = os.environ[RUN]
    # By name, and by label: a build by another project leaves the image of the one before without a name.
    filters = (f"reference=*:{run}*", f"label=org.opencontainers.image.revision={run}")
    listed = [docker("image", "ls", "--quiet", "--filter", each, check=False).stdout.split() for each in filters]
    if images := set(itertools.chain(*listed)):
        docker("image", "rm", "--force", *images, check=False)


@pytest.fixture(autouse=True)
def no_settings_of_the_shell(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take our variables out of the environment, so that a test's outcome does not depend on whose shell it is."""
    for name in check.NAMES:
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="session")
def engine() -> None:
    """A Docker Engine that answers."""
    if reason := why_none():
        pytest.skip(f"no Docker Engine: {reason}")


@contextlib.contextmanager
def once_a_run(factory: pytest.TempPathFactory, name: str) -> Iterator[Path]:
    """Lock a file that all worker processes of this run share; it is empty for the first of them."""
    base = factory.getbasetemp()
    folder = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    with (folder / name).open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield folder / name


@pytest.fixture(scope="session")
def bases(engine: None, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The variables that make builds work here: base images that this machine has or can make, CA bundle."""
    here = environment.resolve("")
    names = {"PYTHON_IMAGE", "NGINX_BASE_IMAGE", "CA_BUNDLE"}
    named = {name: value for name, value in here.values.items() if name in names}
    with once_a_run(tmp_path_factory, "bases") as file:
        if not file.stat().st_size:
            file.write_text(json.dumps({**named, **base_images.choices(here)}))
        return dict(json.loads(file.read_text()))


@pytest.fixture(scope="session")
def built(bases: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The images under names of our own, built once a run; the variables that choose them."""
    run = os.environ[RUN]
    choice = {**bases, "APP_IMAGE": "ct-app", "NGINX_IMAGE": "ct-nginx", "TAG": run, "REVISION": run}
    with once_a_run(tmp_path_factory, "built") as file:
        if not file.stat().st_size:
            Stack(f"{run}-build", choice).compose("build")
            file.write_text("yes")
    return choice


@pytest.fixture(scope="session")
def app_image(built: dict[str, str]) -> str:
    return f"{built['APP_IMAGE']}:{built['TAG']}"


@pytest.fixture(scope="session")
def nginx_image(built: dict[str, str]) -> str:
    return f"{built['NGINX_IMAGE']}:{built['TAG']}"


@contextlib.contextmanager
def _stacks(built: Mapping[str, str]) -> Iterator[Start]:
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
        name = f"{os.environ[RUN]}-{os.environ.get('PYTEST_XDIST_WORKER', 'gw')}-{next(_numbers)}"
        stack = Stack(name, {**images, **(PROBE if probe else {}), **(settings or {})}, root, env_files)
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
    with _stacks(built) as make:
        yield make


@pytest.fixture(scope="module")
def start_shared(built: dict[str, str]) -> Iterator[Start]:
    """The same for all tests of a module."""
    with _stacks(built) as make:
        yield make


@pytest.fixture(scope="session")
def default(built: dict[str, str]) -> Iterator[Stack]:
    """The stack as it is without any setting; for tests that leave it as they found it."""
    with _stacks(built) as make:
        yield make()


@pytest.fixture(scope="session")
def acme_images(built: dict[str, str]) -> dict[str, str]:
    """The images of certbot and pebble as well."""
    images = {**built, "CERTBOT_IMAGE": "ct-certbot"}
    files = {"COMPOSE_FILE": "compose.yaml:compose.tls-acme.yaml:tests/support/compose.pebble.yaml"}
    stack = Stack(f"{built['TAG']}-acme", {**images, **files, "PEBBLE_FOLDER": "./env", "TLS": "acme"})
    stack.compose("--profile", "pebble", "build", "certbot", "pebble")
    return images


@pytest.fixture
def acme(start: Start, acme_images: dict[str, str], tmp_path: Path) -> Iterator[Acme]:
    """A stack that gets its certificate from pebble; neither has been started."""
    tmp_path.chmod(0o755)
    authority = Authority()
    authority.issue(tmp_path, "pebble")
    (tmp_path / "root.pem").write_bytes(authority.pem)
    port = free_port()
    settings = {
        "TLS": "acme", "SERVER_NAME": NAME, "ACME_EMAIL": "someone@example.test", "HTTPS_PORT": str(port),
        "ACME_SERVER": "https://pebble:14000/dir", "HTTP_HOST": "127.0.0.1", "PEBBLE_FOLDER": str(tmp_path),
        "PEBBLE_PORT": str(free_port()),
        "COMPOSE_FILE": "compose.yaml:compose.tls-acme.yaml:tests/support/compose.pebble.yaml",
    }  # fmt: skip
    acme = Acme(start(settings, up=False, images=acme_images), tmp_path, ("127.0.0.1", port))
    try:
        yield acme
    finally:
        for line in acme.stack.log("certbot"):
            print(line)
        acme.stack.compose("--profile", "pebble", "down", "--timeout", "0", "--volumes", check=False)
