"""What nginx tells whoever measures: its own numbers, the list of replicas and each one's numbers."""

import json
import signal
from collections.abc import Iterator

import pytest

from tests.chaos.load import ask
from tests.process.nginx_helpers import START, Nginx, needs_nginx, nginx
from tests.support.metrics import Series, fallen, scrape, total
from tests.support.ports import free_port
from tests.support.wait import until

pytestmark = needs_nginx
OWN = "nginx_own_responses_total"


@pytest.fixture
def server() -> Iterator[Nginx]:
    with nginx() as server:
        yield server


def socket_of(server: Nginx) -> str:
    return str(server.run / "metrics.sock")


def told(server: Nginx) -> dict[Series, float]:
    return scrape(socket_of(server))


def own(server: Nginx, status: str, count: int) -> None:
    until(lambda: total(told(server), OWN, status=status) >= count, f"{count} × {status} are counted", START)
    assert total(told(server), OWN, status=status) == count


def test_what_nginx_answers_alone_is_counted(server: Nginx) -> None:
    server.app()
    server.start(RATE_LIMIT="1", RATE_LIMIT_BURST="0")
    before = told(server)
    statuses = [server.get("/").status for _ in range(30)]
    own(server, "429", statuses.count(429))
    assert statuses.count(429) > 20
    assert fallen(before, told(server)) == []
    assert total(told(server), OWN, status="200") == 0, "those are the app's"


def test_answers_without_an_app_are_counted(server: Nginx) -> None:
    server.start(expect=503)
    own(server, "503", 1)
    assert [server.get("/").status for _ in range(5)] == [503] * 5
    own(server, "503", 6)


def test_errors_of_the_app_are_not_nginxs(server: Nginx) -> None:
    server.app()
    server.start()
    assert [server.get(f"/?status={status}").status for status in (500, 502, 503, 404)] == [500, 502, 503, 404]
    assert server.get("/metrics").status == 404  # which is nginx's, and comes last
    own(server, "404", 1)
    assert {status: total(told(server), OWN, status=status) for status in ("500", "502", "503")} == {
        "500": 0, "502": 0, "503": 0,
    }  # fmt: skip


def test_broken_answers_are_counted(server: Nginx) -> None:
    server.app()
    server.start()
    assert server.get("/?head=100000").status == 502
    own(server, "502", 1)


def test_counting_outlives_a_reload(server: Nginx) -> None:
    server.app()
    server.start()
    for number in range(3):
        server.get("/metrics")
        workers = server.workers()
        server.signal(signal.SIGHUP)
        until(lambda old=workers: not set(server.workers()) & set(old), "the new workers are alone", START)  # type: ignore[misc]
        own(server, "404", number + 1)


def test_replicas_are_listed_as_they_come_and_go(server: Nginx) -> None:
    def listed() -> list[dict[str, list[str]]]:
        answer = ask(socket_of(server), "/replicas")
        assert answer.headers["content-type"] == "application/json"
        return list(json.loads(answer.body))

    server.start(expect=503)
    assert listed() == []
    server.app("a")
    until(lambda: listed() == [{"targets": ["a"]}], "the first is listed", START)
    second = server.app("b")
    until(lambda: listed() == [{"targets": ["a", "b"]}], "both are listed", START)
    second.stop()
    until(lambda: listed() == [{"targets": ["a"]}], "the first alone is listed", START)


def test_each_replica_can_be_asked(server: Nginx) -> None:
    server.app("a")
    server.app("b")
    server.start()
    for name in ("a", "b"):
        seen = json.loads(ask(socket_of(server), f"/replicas/{name}/metrics").body)
        assert (seen["app"], seen["target"]) == (str(server.sockets / f"{name}.sock"), "/metrics")
        assert "x-forwarded-for" not in dict(seen["headers"]), "the app must see that it is nobody's from outside"
    assert ask(socket_of(server), "/replicas/nobody/metrics").status == 502
    assert ask(socket_of(server), "/replicas/..%2fa/metrics").status == 404
    assert ask(socket_of(server), "/own-responses").status == 404


def test_scrapes_are_not_limited(server: Nginx) -> None:
    port = free_port()
    server.app()
    settings = {"NGINX_METRICS_LISTEN": f"127.0.0.1:{port}", "RATE_LIMIT": "1", "CONNECTION_LIMIT": "1"}
    server.start(expect=None, **settings)
    until(lambda: server.in_use == ["a"], "the app is found", START)
    for path in ("/metrics", "/replicas", "/replicas/a/metrics"):
        assert [ask(("127.0.0.1", port), path).status for _ in range(10)] == [200] * 10, path


def test_metrics_stay_inside(server: Nginx) -> None:
    server.app()
    server.start()
    for path in ("/metrics", "/replicas", "/replicas/a/metrics", "/own-responses"):
        answer = server.get(path)
        assert answer.status == 404 or json.loads(answer.body)["target"] == path, "nginx's or the app's own path"
    assert server.get("/metrics").status == 404


def test_over_tcp_nothing_piles_up(server: Nginx) -> None:
    port = free_port()
    server.start(expect=503, BIND=f"0.0.0.0:{port}", APP_HOST="127.0.0.1")
    until(lambda: total(told(server), "nginx_connections_active") == 1, "there is the scrape's own alone", START)
    assert not list((server.run / "answered").iterdir()), "nobody would count the marks"
