"""Replicas that are killed, replaced and started again; more of it under load in tests/chaos/test_containers.py."""

from typing import Any

import pytest

from tests.conftest import Start
from tests.container.conftest import QUICK
from tests.support.compose import Stack, docker
from tests.support.wait import until

pytestmark = pytest.mark.slow
SOCKETS = {**QUICK, "MAX_WORKERS": "1", "ACCESS_LOG": ""}
TCP = {**SOCKETS, "BIND": "0.0.0.0:8080"}
LIST_SOCKETS = "import json, os; print(json.dumps(os.listdir('/run/app')))"


@pytest.fixture(scope="module")
def stack(start_shared: Start) -> Stack:
    return start_shared(SOCKETS, "--scale", "app=3", probe=True)


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


def test_a_killed_replica_harms_nobody(stack: Stack) -> None:
    # Over TCP it can: while a connect waits in vain nginx learns of the new addresses, and gives up (nginx #1656).
    until_all_answer(stack)
    victim = stack.containers("app")[0]
    docker("kill", victim["Id"])
    answers = [stack.client.request(method, "/").status_code for _ in range(50) for method in ("GET", "POST")]
    assert answers == [200] * 100
    docker("start", victim["Id"])
    until_all_answer(stack)


def test_a_dead_socket_is_taken_over(stack: Stack) -> None:
    victim = stack.containers("app")[0]
    docker("kill", victim["Id"])
    assert f"{hostname(victim)}.sock" in stack.python(LIST_SOCKETS)
    docker("start", victim["Id"])
    until_all_answer(stack)
    docker("stop", victim["Id"])
    assert f"{hostname(victim)}.sock" not in stack.python(LIST_SOCKETS), "who stops in order takes it away"
    docker("start", victim["Id"])


def test_replicas_over_tcp_are_followed(start: Start) -> None:
    stack = start(TCP, "--scale", "app=3", probe=True)
    until_all_answer(stack)
    old = set(stack.ids("app"))
    stack.up("--force-recreate", "--no-deps", "--scale", "app=3", "app")
    assert not old & set(stack.ids("app"))
    until_all_answer(stack)


def test_without_any_app_nginx_says_so(stack: Stack) -> None:
    ids = [container["Id"] for container in stack.containers("app")]
    docker("kill", *ids)
    answer = stack.get()
    assert answer.status_code == 503
    assert answer.json() == {"detail": "Service Unavailable"}
    assert int(answer.headers["retry-after"]) >= 1
    nginx = stack.container("nginx")["Id"]
    docker("start", *ids)
    until_all_answer(stack)
    assert stack.container("nginx")["Id"] == nginx
    assert stack.container("nginx")["RestartCount"] == 0


def test_a_server_that_ends_is_started_again(stack: Stack) -> None:
    container = stack.containers("app")[0]["Id"]
    # From inside, as Docker takes a `docker kill` for the user's wish.
    docker("exec", container, "python3", "-c", "import os; os.kill(1, 15)")
    until(lambda: {each["Id"]: each["RestartCount"] for each in stack.containers("app")}[container] == 1, "a restart")
    until_all_answer(stack)
