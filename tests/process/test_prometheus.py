"""Prometheus with the stack's configuration: what it finds, its rules, the page in a browser, the dashboard."""

import functools
import json
import re
import shutil
import subprocess
import tempfile
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from greenstack.cli import prometheus
from tests.chaos import stack as local
from tests.chaos.load import Load
from tests.support.http import Request, ask
from tests.support.metrics import scrape
from tests.support.ports import free_port
from tests.support.processes import ROOT, Process
from tests.support.programs import PATH, needs
from tests.support.wait import until

pytestmark = needs("prometheus", "promtool", "nginx")
BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
needs_browser = pytest.mark.skipif(BROWSER is None, reason="not installed: chromium")
PAGE = "/consoles/index.html"


class Prometheus(Process):
    """A Prometheus that asks the nginx at `nginx`, in `folder`."""

    def __init__(self, folder: Path, nginx: str, port: int) -> None:
        self.address, self.url = ("127.0.0.1", port), f"http://127.0.0.1:{port}"
        command = prometheus.command(folder, nginx, f"127.0.0.1:{port}", "1h")
        super().__init__(command, {"PATH": PATH}, folder / "prometheus.log")
        until(lambda: self.answers() or not self.running(), "Prometheus answers")
        assert self.running(), self.log

    def answers(self) -> bool:
        try:
            return bool(self.get("query", query="1"))
        except OSError:
            return False

    def get(self, what: str, **parameters: str) -> Any:
        """Return the data of an answer of its API; urllib.error.HTTPError where the query is refused."""
        query = urllib.parse.urlencode(parameters)
        with urllib.request.urlopen(f"{self.url}/api/v1/{what}?{query}", timeout=10) as answer:  # noqa: S310
            return json.load(answer)["data"]

    def values(self, query: str) -> dict[str, float]:
        """Return the value of each series that a query gives, by its instance."""
        result = self.get("query", query=query)["result"]
        return {each["metric"].get("instance", ""): float(each["value"][1]) for each in result}


@pytest.fixture(scope="module")
def stack() -> Iterator[local.Stack]:
    with local.running(NGINX_METRICS_LISTEN=f"127.0.0.1:{free_port()}") as stack:
        yield stack


@pytest.fixture(scope="module")
def measuring(stack: local.Stack) -> Iterator[Prometheus]:
    with tempfile.TemporaryDirectory(prefix="prometheus-", ignore_cleanup_errors=True) as folder:
        running = Prometheus(Path(folder), stack.variables["NGINX_METRICS_LISTEN"], free_port())
        yield running
        running.kill()


def shown(url: str, *options: str, seconds: int = 8) -> str:
    """Return a page as the browser has it after so many seconds of its own time, between two of its rounds of 5 s."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        command = [
            str(BROWSER), "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={profile}",
            f"--virtual-time-budget={seconds * 1000}", *options, "--dump-dom", url,
        ]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    return done.stdout


def tiles(page: str) -> dict[str, str]:
    """Return what the tiles of the page say."""
    return {name: value for value, name in re.findall(r"<b>([^<]*)</b><span>([^<]*)</span>", page)}


def complaint(page: str) -> str:
    """Return what the page says is wrong."""
    (said,) = re.findall(r'<span id="state"[^>]*>([^<]*)</span>', page)
    return str(said)


def empty_charts(page: str) -> int:
    return page.count(">nothing was measured</text>")


def test_rules_do_what_they_should() -> None:
    command = ["promtool", "test", "rules", str(ROOT / "prometheus/rules.test.yml")]
    done = subprocess.run(command, env={"PATH": PATH}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_alert_has_a_test_and_an_action() -> None:
    rules = (ROOT / "prometheus/rules.yml").read_text()
    alerts = re.findall(r"alert: (\w+)", rules)
    tests = (ROOT / "prometheus/rules.test.yml").read_text()
    assert len(alerts) == rules.count("action:") == rules.count("summary:") > 5
    assert [alert for alert in alerts if alert not in tests] == []


@needs_browser
def test_the_page_without_data(tmp_path: Path) -> None:
    empty = Prometheus(tmp_path, "127.0.0.1:1", free_port())
    try:
        page = shown(empty.url + PAGE)
    finally:
        empty.kill()
    assert empty_charts(page) >= 10
    assert complaint(page).startswith("Nothing was measured")
    assert 'class="grid"' not in page, "no scale of nothing"
    assert tiles(page)["replicas"] == "0"
    assert tiles(page)["p99"] == "–"


@needs_browser
def test_the_page_without_prometheus(tmp_path: Path) -> None:
    # As somebody sees it who has it open: the file, and nobody behind its queries.
    page = shown((ROOT / f"prometheus{PAGE}").as_uri(), seconds=3)
    assert complaint(page).startswith("Prometheus does not answer")
    assert tiles(page)["replicas"] == "–"


@needs_browser
def test_a_resize_makes_no_more_turns(tmp_path: Path) -> None:
    page = (ROOT / f"prometheus{PAGE}").read_text()
    resizes = '<script>for (let i = 0; i < 50; i++) dispatchEvent(new Event("resize"))</script>'
    (tmp_path / "page.html").write_text(page + resizes)
    (turns,) = re.findall(r'data-turns="(\d+)"', shown((tmp_path / "page.html").as_uri(), seconds=12))
    assert 2 <= int(turns) <= 5, "at once, after the resize, and every 5 s"


@pytest.mark.slow
def test_replicas_are_found_as_they_come_and_go(stack: local.Stack, measuring: Prometheus) -> None:
    until(lambda: measuring.values('up{job="app"} == 1').keys() == {"app-1"}, "the first is found")
    second = stack.start_app("app-2")
    until(lambda: measuring.values('up{job="app"} == 1').keys() == {"app-1", "app-2"}, "both are found")
    assert list(measuring.values('up{job="nginx"}').values()) == [1.0]
    second.stop()
    until(lambda: measuring.values('up{job="app"} == 1').keys() == {"app-1"}, "the second is forgotten")
    until(lambda: measuring.values('up{job="app"} == 0') == {}, "one that has left is none that is broken")


def test_pages_from_elsewhere_cannot_read(measuring: Prometheus) -> None:
    answer = ask(measuring.address, Request("GET", "/api/v1/query?query=1", {"Origin": "http://other.test"}))
    assert answer.status == 200
    assert "access-control-allow-origin" not in answer.headers


@needs_browser
def test_the_page_shows_what_happens(stack: local.Stack, measuring: Prometheus) -> None:
    with Load(stack.address, rate=50):
        query = 'sum(rate(http_request_duration_seconds_count{route="/{path}"}[20s]))'
        until(lambda: measuring.values(query).get("", 0) > 5, "requests are measured")
        page = shown(measuring.url + PAGE)
    now = tiles(page)
    assert float(now["requests/s"]) > 5
    assert now["failed"] == "0.00 %"
    assert (now["replicas"], now["workers ready"]) == ("1", "2")
    assert float(now["p99"].removesuffix(" ms")) > 0
    assert "/{path}" in page
    assert complaint(page) == ""
    assert empty_charts(page) == 0
    assert page.count('class="mark"') > 0, "the start of the replica"


def test_the_dashboards_queries_give_something(stack: local.Stack, measuring: Prometheus) -> None:
    dashboard = json.loads((ROOT / "prometheus/grafana.json").read_text())
    queries = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    queries += [annotation["expr"] for annotation in dashboard["annotations"]["list"]]
    limited = "container_memory_limit_bytes"  # there where a limit is

    def gives(query: str) -> bool:
        try:
            result = measuring.get("query", query=query.replace("$__rate_interval", "20s"))["result"]
        except urllib.error.HTTPError as error:
            raise AssertionError(f"{query}: {error.read().decode()}") from None
        return bool(result) or limited in query or query.startswith("increase") or "offset" in query

    with Load(stack.address, rate=50):
        asked = "sum(rate(http_request_duration_seconds_count[20s]))"
        until(lambda: measuring.values(asked).get("", 0) > 1, "requests are measured")
        for query in queries:
            until(functools.partial(gives, query), f"something is given for {query}")  # a rate needs two scrapes


def test_the_page_and_the_dashboard_name_what_is_told(stack: local.Stack) -> None:
    assert stack.status("/anything") == 200
    socket = str(stack.nginx.run / "metrics.sock")
    told = {name for name, _ in [*scrape(socket), *scrape(socket, "/replicas/app-1/metrics")]}
    told |= {"container_memory_limit_bytes", "up"}  # where there are such
    told |= {"nginx_certificate_start_time_seconds", "nginx_certificate_end_time_seconds"}
    for file in ("consoles/index.html", "grafana.json", "rules.yml"):
        text = (ROOT / "prometheus" / file).read_text()
        names = set(re.findall(r"\b(?:http_request|gunicorn|container|nginx_)\w+", text)) - {"nginx_alone"}
        assert {name for name in names if name not in told and "_" in name} == set(), file
