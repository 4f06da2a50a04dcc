"""`pytest tests/chaos` runs every case briefly; `pytest tests/chaos --full` (make chaos) with the full figures."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, Protocol, TypeVar

import pytest
from rich.console import Console

from tests.chaos import stack as local
from tests.chaos.load import Failure, Result, post_problems
from tests.chaos.report import Figure, as_markdown, as_table, latencies

FIGURES = pytest.StashKey[list[Figure]]()
FULL_TIMEOUT = 1800  # s; of one case in full length
T = TypeVar("T")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--full", action="store_true", help="tests/chaos: reach the full figures, about half an hour")
    parser.addoption("--markdown", metavar="FILE", help="tests/chaos: write the table of figures there as well")


def is_full(config: pytest.Config) -> bool:
    # Where all of tests/ is run, this file is read too late to add options.
    return bool(config.getoption("--full", default=False))


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    for item in items:
        if is_full(config) and Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.timeout(FULL_TIMEOUT))


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    figures = config.stash.get(FIGURES, [])
    if not figures:
        return
    console = Console(width=150)
    with console.capture() as capture:
        console.print(as_table(figures))
    terminalreporter.write("\n" + capture.get())
    if file := config.getoption("--markdown", default=None):
        Path(file).write_text(as_markdown(figures))


class Pick(Protocol):
    """Chooses between the value for a short run and the one for the full figures."""

    def __call__(self, short: T, full: T) -> T: ...


@pytest.fixture(scope="session")
def pick(pytestconfig: pytest.Config) -> Pick:
    return lambda short, full: full if is_full(pytestconfig) else short


Running = Callable[..., AbstractContextManager[local.Stack]]


@pytest.fixture
def running(request: pytest.FixtureRequest) -> Running:
    """Start nginx and an instance of the app under the settings given by name; a failed test shows their logs."""
    if not local.NGINX:
        pytest.skip("nginx is not installed")

    @contextmanager
    def start(**settings: str) -> Iterator[local.Stack]:
        with local.running(**settings) as stack:
            try:
                yield stack
            except BaseException:
                for name, text in stack.logs():
                    request.node.add_report_section("call", name, text)
                raise

    return start


class Verdict(Protocol):
    """Adds a row to the table of figures and asserts what it says, client side and app side.

    `allowed` says in words which failures are no loss, `forgiven` which these are.
    """

    def __call__(
        self,
        case: str,
        stack: Any,
        result: Result,
        allowed: str = "0",
        forgiven: Callable[[Failure], bool] = lambda _: False,
    ) -> None: ...


@pytest.fixture
def verdict(pytestconfig: pytest.Config) -> Verdict:
    figures = pytestconfig.stash.setdefault(FIGURES, [])

    def judge(
        case: str,
        stack: Any,
        result: Result,
        allowed: str = "0",
        forgiven: Callable[[Failure], bool] = lambda _: False,
    ) -> None:
        lost = [failure for failure in result.failures if not forgiven(failure)]
        problems = list(post_problems(result, stack.executed()))
        failed = f"{result.failed('GET')} GET, {result.failed('POST')} POST" if result.failures else "0"
        load = f"{result.total:,} requests, half POST"
        figures.append(Figure(case, load, failed, allowed, latencies(result), not lost and not problems))
        assert not lost, f"{len(lost)} requests were lost: {result}"
        assert not problems, "\n".join(problems)

    return judge
