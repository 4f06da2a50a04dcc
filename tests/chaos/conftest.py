"""`pytest tests/chaos` runs every case briefly; `pytest tests/chaos --full` (make chaos) with the full figures."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import astuple
from pathlib import Path
from typing import Any, Protocol, TypeVar

import pytest
from rich.console import Console

from tests.chaos import stack as local
from tests.chaos.load import Failure, Result, post_problems
from tests.chaos.report import Figure, as_markdown, as_table, latencies
from tests.support.probed import Probed

FULL_TIMEOUT = 1800  # s; of one case in full length
T = TypeVar("T")
AddFigure = Callable[..., None]
Verdict = Callable[..., None]


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    for item in items:
        if config.getoption("--full") and Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.timeout(FULL_TIMEOUT))


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    reports = [report for name in ("passed", "failed") for report in terminalreporter.getreports(name)]
    properties = [each for report in reports if report.when == "call" for each in report.user_properties]
    figures = [Figure(*value) for name, value in properties if name == "figure"]
    if not figures:
        return
    console = Console(width=150)
    with console.capture() as capture:
        console.print(as_table(figures))
    terminalreporter.write("\n" + capture.get())
    if file := config.getoption("--markdown"):
        Path(file).write_text(as_markdown(figures))


class Pick(Protocol):
    """Chooses between the value for a short run and the one for the full figures."""

    def __call__(self, short: T, full: T) -> T: ...


@pytest.fixture(scope="session")
def pick(pytestconfig: pytest.Config) -> Pick:
    return lambda short, full: full if pytestconfig.getoption("--full") else short


@pytest.fixture
def figure(record_property: Callable[[str, object], None]) -> AddFigure:
    """Add a row to the table of figures and assert that the figure is reached; `details` say why it was not."""

    def add(row: Figure, *details: object) -> None:
        # As a property of the test: it comes through to the process that prints the table.
        record_property("figure", astuple(row))
        assert row.reached, "\n".join(map(str, (row, *details)))

    return add


Running = Callable[..., AbstractContextManager[local.Stack]]


@pytest.fixture
def running(request: pytest.FixtureRequest) -> Running:
    """Start nginx and an instance of the app under the settings given by name; a failed test shows their logs."""

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


@pytest.fixture
def verdict(figure: AddFigure) -> Verdict:
    """Add a row to the table of figures and assert what it says, client side and app side.

    `allowed` says in words which failures are no loss, `forgiven` which these are.
    """

    def judge(
        case: str,
        stack: Probed,
        result: Result,
        allowed: str = "0",
        forgiven: Callable[[Failure], bool] = lambda _: False,
    ) -> None:
        lost = [failure for failure in result.failures if not forgiven(failure)]
        problems = list(post_problems(result, stack.executed()))
        failed = f"{result.failed('GET')} GET, {result.failed('POST')} POST" if result.failures else "0"
        reached = not lost and not problems
        load = f"{result.total:,} requests, half POST"
        figure(Figure(case, load, failed, allowed, latencies(result), reached), result, *problems)

    return judge
