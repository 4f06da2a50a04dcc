"""Stops, starts, crashes and replacements, with nginx reaching the app either way."""

import threading
import time
from typing import Any

import httpx
import pytest

from tests.container.conftest import QUICK, Start
from tests.container.project import Stack, docker, until

GRACE = 20  # s; STOP_GRACE_PERIOD of QUICK
UNIX = {**QUICK, "MAX_WORKERS": "1", "ACCESS_LOG": ""}
TCP = {**UNIX, "BIND": "0.0.0.0:8080"}
LIST_SOCKETS = "import json, os; print(json.dumps(os.listdir('/run/app')))"


@pytest.fixture(scope="module", params=[UNIX, TCP], ids=["unix", "tcp"])
def stack(request: pytest.FixtureRequest, start_shared: Start) -> Stack:
    return start_shared(request.param, "--scale", "app=3", probe=True)


@pytest.fixture
def unix(stack: Stack) -> Stack:
    if "BIND" in stack.environ:
        pytest.skip("there are no sockets over TCP")
    return stack


def hostname(container: dict[str, Any]) -> str:
    return str(container["Config"]["Hostname"])


def until_all_answer(stack: Stack) -> None:
    """Wait until every app container that runs answers, and nobody else."""
    names = {hostname(container) for container in stack.containers("app") if container["State"]["Running"]}

    def who() -> set[str]:
        # Three times nginx's 12 slots: round robin has come past each.
        answers = [stack.get() for _ in range(36)]
        return {answer.json()["host"] if answer.status_code == 200 else str(answer.status_code) for answer in answers}

    until(lambda: who() == names, f"{names} answer, and nobody else")


def test_stop_finishes_what_is_under_way_and_start_serves_again(stack: Stack) -> None:
    until_all_answer(stack)
    answers: list[httpx.Response] = []
    thread = threading.Thread(target=lambda: answers.append(stack.get("/sleep?1.5")))
    thread.start()
    until(lambda: "began /sleep 1.5" in stack.log("app"), "the app works on the request")
    began = time.monotonic()
    stack.compose("stop")
    assert time.monotonic() - began < GRACE, "nobody had to be killed"
    thread.join()
    assert [answer.status_code for answer in answers] == [200]
    states = [container["State"] for name in ("app", "nginx") for container in stack.containers(name)]
    assert [state["ExitCode"] for state in states] == [0, 0, 0, 0]
    with pytest.raises(httpx.TransportError):
        stack.get()
    stack.up("--no-recreate", "--scale", "app=3")
    until_all_answer(stack)


def test_killed_replica_harms_nobody(unix: Stack) -> None:
    # Over TCP it can: while a connect waits in vain nginx learns of the new addresses, and gives up (nginx #1656).
    until_all_answer(unix)
    victim = unix.containers("app")[0]
    docker("kill", victim["Id"])
    answers = [unix.client.request(method, "/").status_code for _ in range(50) for method in ("GET", "POST")]
    assert answers == [200] * 100
    docker("start", victim["Id"])
    until_all_answer(unix)


def test_dead_socket_is_left_behind_and_taken_over(unix: Stack) -> None:
    victim = unix.containers("app")[0]
    docker("kill", victim["Id"])
    assert f"{hostname(victim)}.sock" in unix.python(LIST_SOCKETS)
    docker("start", victim["Id"])
    until_all_answer(unix)
    docker("stop", victim["Id"])
    assert f"{hostname(victim)}.sock" not in unix.python(LIST_SOCKETS), "who stops in order takes it away"
    docker("start", victim["Id"])


def test_container_that_is_replaced_by_hand_is_followed(stack: Stack) -> None:
    old = stack.containers("app")[0]
    docker("rm", "--force", old["Id"])
    stack.up("--no-recreate", "--no-deps", "--scale", "app=3", "app")
    assert old["Id"] not in [container["Id"] for container in stack.containers("app")]
    until_all_answer(stack)


def test_all_replicas_replaced_at_once(stack: Stack) -> None:
    old = {container["Id"] for container in stack.containers("app")}
    stack.up("--force-recreate", "--no-deps", "--scale", "app=3", "app")
    assert not old & {container["Id"] for container in stack.containers("app")}
    until(lambda: stack.get().status_code == 200, "the new ones serve")
    until_all_answer(stack)


def test_without_any_app_nginx_says_so_and_recovers(unix: Stack) -> None:
    ids = [container["Id"] for container in unix.containers("app")]
    docker("kill", *ids)
    answer = unix.get()
    assert answer.status_code == 503
    assert answer.json() == {"detail": "Service Unavailable"}
    assert int(answer.headers["retry-after"]) >= 1
    nginx = unix.container("nginx")["Id"]
    docker("start", *ids)
    until_all_answer(unix)
    assert unix.container("nginx")["Id"] == nginx
    assert unix.container("nginx")["RestartCount"] == 0


def test_what_ends_by_itself_is_started_again(stack: Stack) -> None:
    container = stack.containers("app")[0]["Id"]
    # From inside, as Docker takes a `docker kill` for the user's wish.
    docker("exec", container, "python3", "-c", "import os; os.kill(1, 15)")
    until(lambda: {each["Id"]: each["RestartCount"] for each in stack.containers("app")}[container] == 1, "a restart")
    until_all_answer(stack)
