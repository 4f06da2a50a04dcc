"""What is refused before a Swarm is asked, and what is said of a stack that does not come up."""

import json
import time
from typing import Any

import pytest

from greenstack.cli import docker, swarm, wait
from greenstack.cli.console import CommandError
from greenstack.cli.environment import Environment
from greenstack.cli.stack_file import StackFile
from greenstack.cli.swarm import Stack

IMAGES = {"IMAGE": "registry.example/app:1", "EDGE_IMAGE": "registry.example/nginx:1"}


FILE = StackFile("shop", {"services": {"app": {"deploy": {"resources": {}}}, "db": {}, "nginx": {}}})


def environment(**values: str) -> Environment:
    return Environment("", (), values, {}, {}, [])


@pytest.mark.parametrize(
    ("values", "line"),
    [
        ({"EDGE_IMAGE": "x"}, "IMAGE: is not set; nodes take the image of app from a registry"),
        ({"IMAGE": "x"}, "EDGE_IMAGE: is not set; nodes take the image of nginx from a registry"),
        ({**IMAGES, "TLS": "acme", "SERVER_NAME": "a.example", "ACME_EMAIL": "a@a.example"}, "TLS=acme: certbot needs"),
        (
            {**IMAGES, "TRUSTED_PROXIES": "10.0.0.1,host", "HTTP_HOST": "127.0.0.1"},
            "TRUSTED_PROXIES=10.0.0.1,host: a node is published at every",
        ),
        ({**IMAGES, "MAX_WORKERS": "zero"}, "MAX_WORKERS=zero: not a whole number"),
    ],
)
def test_what_cannot_be_is_refused(values: dict[str, str], line: str) -> None:
    with pytest.raises(CommandError) as failure:
        swarm.derived(environment(**values))
    assert len(failure.value.lines) == 1
    assert failure.value.lines[0].startswith(line)
    assert failure.value.status == 2


def test_an_engine_outside_a_swarm_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(docker, "output", lambda *arguments: "false\n")
    with pytest.raises(CommandError, match="no manager of a Swarm"):
        swarm._nodes()


@pytest.mark.parametrize(
    ("listed", "count"),
    [
        (["Ready Active", "Ready Active", "Ready Drain"], 2),
        (["Unknown Active", "Unknown Active", "Down Active"], 2),
    ],
)
def test_nodes_of_a_new_leader_are_counted(monkeypatch: pytest.MonkeyPatch, listed: list[str], count: int) -> None:
    monkeypatch.setattr(docker, "output", lambda *asked: "true" if asked[0] == "info" else "\n".join(listed))
    assert swarm._nodes() == count


def test_a_swarm_without_a_node_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(docker, "output", lambda *asked: "true" if asked[0] == "info" else "Ready Drain\nDown Active")
    with pytest.raises(CommandError, match="no node of the Swarm takes tasks"):
        swarm._nodes()


@pytest.mark.parametrize(("nodes", "here"), [(1, False), (3, True)])
def test_an_image_that_nodes_cannot_pull_is_refused(monkeypatch: pytest.MonkeyPatch, nodes: int, here: bool) -> None:
    monkeypatch.setattr(docker, "pull", lambda name: "no such host")
    monkeypatch.setattr(docker, "has_image", lambda name: here)
    with pytest.raises(CommandError, match="IMAGE=shop:1: cannot be pulled: no such host; allowed: an image of app"):
        swarm._get("IMAGE", "shop:1", nodes, "app")


def test_the_only_node_may_have_the_image(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(docker, "pull", lambda name: "no such host")
    monkeypatch.setattr(docker, "has_image", lambda name: True)
    swarm._get("IMAGE", "shop:1", 1, "app")
    assert "the only node has it already" in capsys.readouterr().out


class Said(Stack):
    """A stack of which Swarm says this: the app's update, and its tasks."""

    said: Any

    def __init__(self, update: str, tasks: list[dict[str, str]], counts: tuple[int, int] = (3, 3)) -> None:
        super().__init__("shop")
        state = {"UpdateStatus": {"State": update}, "PreviousSpec": {}} if update else {}
        object.__setattr__(self, "said", ({"shop_app": state}, tasks, {"shop_app": counts}))

    def services(self) -> dict[str, Any]:
        return dict(self.said[0])

    def tasks(self) -> list[dict[str, Any]]:
        return list(self.said[1])

    def counts(self) -> dict[str, tuple[int, int]]:
        return dict(self.said[2])

    def outdated(self, services: dict[str, Any]) -> bool:
        return False


def failed(number: int) -> dict[str, str]:
    name, error = f"shop_app.n{number}", '"task: non-zero exit (2)"'
    return {"ID": f"t{number}", "Name": name, "Node": f"n{number}", "CurrentState": "Failed 2 s ago", "Error": error}


@pytest.fixture
def logs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(docker, "service_log", lambda name: [f"log of {name}"])


@pytest.mark.usefixtures("logs")
def test_a_rollback_is_told_with_its_reason() -> None:
    with pytest.raises(CommandError) as failure:
        swarm._follow(Said("rollback_completed", [failed(2), failed(1)]), {"t2"}, 1)
    expected = ("log of t1", "shop_app on n1: task: non-zero exit (2)", "Swarm has brought the version before back")
    assert failure.value.lines == expected


@pytest.mark.usefixtures("logs")
@pytest.mark.parametrize("state", ["paused", "rollback_paused"])
def test_an_update_that_stays_half_way_is_not_called_a_rollback(state: str) -> None:
    with pytest.raises(CommandError, match="stopped its update half-way: docker service ps shop_app"):
        swarm._follow(Said(state, []), set(), 1)


def test_a_job_that_was_left_behind_is_not_this_one(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    monkeypatch.setattr(docker, "output", lambda *arguments, **_: asked.append(" ".join(arguments[:2])))
    monkeypatch.setattr(docker, "service_log", lambda _: [])
    ended = [{"ID": "t", "Name": "shop_prepare.1", "CurrentState": "Complete 1 s ago"}]
    monkeypatch.setattr(Stack, "tasks", lambda _: ended)
    monkeypatch.setattr(Stack, "services", lambda _: {"shop_prepare": {}})
    swarm._prepare(Stack("shop"), FILE, "true", 0)
    assert asked == ["service rm", "stack deploy", "service rm"]


@pytest.mark.parametrize(
    ("states", "fault"),
    [
        (["Rejected", "Complete"], None),
        (["Rejected"] * swarm.FAILURES, "network not found\n"),
        (["Rejected", "Failed"], "network not found: its output is above\n"),
    ],
)
def test_a_job_that_is_rejected_runs_again(
    monkeypatch: pytest.MonkeyPatch, states: list[str], fault: str | None
) -> None:
    asked: list[str] = []
    monkeypatch.setattr(docker, "output", lambda *arguments, **_: asked.append(" ".join(arguments[:2])))
    monkeypatch.setattr(docker, "service_log", lambda _: [])
    monkeypatch.setattr(Stack, "services", lambda _: {})

    def tasks(_: Stack) -> list[dict[str, str]]:
        state = states[asked.count("stack deploy") - 1]
        return [
            {"ID": "t", "Name": "shop_prepare.1", "CurrentState": f"{state} 1 s ago", "Error": '"network not found"'}
        ]

    monkeypatch.setattr(Stack, "tasks", tasks)
    if fault:
        with pytest.raises(CommandError, match=f"PRE_DEPLOY=true: {fault}"):
            swarm._prepare(Stack("shop"), FILE, "true", 1)
    else:
        swarm._prepare(Stack("shop"), FILE, "true", 1)
    assert asked == ["stack deploy", "service rm"] * len(states)


def test_a_job_that_no_node_takes_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    monkeypatch.setattr(docker, "output", lambda *arguments, **_: asked.append(" ".join(arguments)))
    waits = {"ID": "t", "Name": "shop_prepare.1", "CurrentState": "Pending 1 s ago", "Error": '"no suitable node"'}
    monkeypatch.setattr(Stack, "tasks", lambda _: [waits])
    monkeypatch.setattr(Stack, "services", lambda _: {})
    with pytest.raises(CommandError, match="PRE_DEPLOY=true: it has not begun after 0 s: no suitable node"):
        swarm._prepare(Stack("shop"), FILE, "true", 0)
    assert asked[-1] == "service rm shop_prepare", "it must not run later"


def test_an_update_that_has_not_begun_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "sleep", lambda _: None)
    states = iter(["", "updating", "completed", "completed"])
    services: dict[str, dict[str, dict[str, str]]] = {"shop_app": {"PreviousSpec": {}}}

    def look(_: Stack) -> dict[str, Any]:
        services["shop_app"]["UpdateStatus"] = {"State": next(states)}
        return dict(services)

    monkeypatch.setattr(Said, "services", look)
    swarm._follow(Said("", []), set(), 30)
    assert next(states, None) is None


LIMITS = {"Limits": {"MemoryBytes": 1 << 30}}


@pytest.mark.parametrize(
    ("task", "service", "outdated"),
    [
        ({"ContainerSpec": {"Image": "a"}}, {"ContainerSpec": {"Image": "b"}}, True),
        (
            {"ContainerSpec": {"Image": "a"}},
            {"ContainerSpec": {"Image": "a", "DNSConfig": {}, "StopGracePeriod": 10_000_000_000}, "Resources": {}},
            False,
        ),
        ({"ContainerSpec": {"StopGracePeriod": 5}}, {"ContainerSpec": {"StopGracePeriod": 6}}, True),
        (
            {"ContainerSpec": {}, "Resources": {"Limits": {"MemoryBytes": 1 << 29}}},
            {"ContainerSpec": {}, "Resources": LIMITS},
            True,
        ),
        ({"ContainerSpec": {}, "Resources": LIMITS}, {"ContainerSpec": {}, "Resources": LIMITS}, False),
        (
            {"ContainerSpec": {}, "Placement": {}, "ForceUpdate": 1},
            {"ContainerSpec": {}, "Placement": {"Constraints": ["node.role==worker"]}},
            False,
        ),
    ],
    ids=["image", "defaults", "grace", "limits", "same", "placement"],
)
def test_a_task_is_outdated_by_what_replaces_it(
    monkeypatch: pytest.MonkeyPatch, task: dict[str, Any], service: dict[str, Any], outdated: bool
) -> None:
    monkeypatch.setattr(Stack, "tasks", lambda _: [{"ID": "t", "DesiredState": "Running"}])
    monkeypatch.setattr(docker, "output", lambda *_: json.dumps([{"ServiceID": "s", "Spec": task}]))
    assert Stack("shop").outdated({"shop_app": {"ID": "s", "Spec": {"TaskTemplate": service}}}) is outdated


class Silent:
    """Answers each look but those that begin like `unanswered`."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, unanswered: str) -> None:
        self.unanswered = unanswered
        self.asked: list[str] = []
        monkeypatch.setattr(docker, "output", self)

    def __call__(self, *arguments: str, stdin: str = "") -> str:
        self.asked.append(" ".join(arguments[:2]))
        if self.asked[-1].startswith(self.unanswered):
            raise CommandError("rpc error: DeadlineExceeded")
        return "[]" if "inspect" in arguments else ""


def test_a_manager_that_is_silent_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = Silent(monkeypatch, "service ls")
    monkeypatch.setattr(time, "sleep", lambda _: setattr(engine, "unanswered", "none"))
    assert Stack("shop").counts() == {}
    assert engine.asked == ["service ls", "service ls"]


def test_a_job_out_of_sight_is_not_removed(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = Silent(monkeypatch, "service ps")
    monkeypatch.setattr(wait, "PATIENCE", 0)
    monkeypatch.setattr(Stack, "services", lambda _: {} if "stack deploy" not in engine.asked else {"shop_prepare": {}})
    with pytest.raises(CommandError) as failure:
        swarm._prepare(Stack("shop"), FILE, "true", 1)
    assert failure.value.lines[0] == "rpc error: DeadlineExceeded"
    assert failure.value.lines[1].startswith("PRE_DEPLOY goes on by itself")
    assert failure.value.lines[1].endswith(": docker service logs shop_prepare")
    assert engine.asked == ["stack deploy", "service ps"]


def test_a_task_that_goes_meanwhile_is_outdated(monkeypatch: pytest.MonkeyPatch) -> None:
    Silent(monkeypatch, "inspect")
    monkeypatch.setattr(Stack, "tasks", lambda _: [{"ID": "t", "DesiredState": "Running"}])
    assert Stack("shop").outdated({})


@pytest.mark.parametrize("silent", ["shop_app", "shop_nginx"])
def test_an_update_out_of_sight_goes_on(monkeypatch: pytest.MonkeyPatch, silent: str) -> None:
    Engine(monkeypatch, failing=silent, error=wait.SilenceError)
    monkeypatch.setattr(swarm, "derived", lambda _: FILE)
    monkeypatch.setattr(docker, "require", lambda: None)
    for name in ("_nodes", "_get", "_try_out"):
        monkeypatch.setattr(swarm, name, lambda *_: 1)
    with pytest.raises(CommandError) as failure:
        swarm.deploy(environment(**IMAGES))
    expected = (f"{silent} failed", "an update that has begun goes on by itself: docker stack ps shop")
    assert failure.value.lines == expected


class Engine:
    """Takes what is deployed, and follows it in vain where `failing` is."""

    def __init__(
        self, monkeypatch: pytest.MonkeyPatch, failing: str = "", error: type[CommandError] = CommandError
    ) -> None:
        self.failing = failing
        self.error = error
        self.done: list[str] = []
        self.specs = dict.fromkeys(("shop_app", "shop_nginx", "shop_old"), "before")
        monkeypatch.setattr(docker, "output", self)
        monkeypatch.setattr(swarm, "_follow", self.follow)
        monkeypatch.setattr(Stack, "services", lambda _: self.services())
        monkeypatch.setattr(Stack, "tasks", lambda _: [])

    def services(self) -> dict[str, Any]:
        return {name: {"Spec": {"TaskTemplate": text}} for name, text in self.specs.items()}

    def __call__(self, *arguments: str, stdin: str = "{}") -> None:
        names = sorted(json.loads(stdin).get("services", arguments[2:]))
        self.done.append(f"{arguments[1]} {' '.join(names)}")
        self.specs |= {f"shop_{name}": "after" for name in names}

    def follow(self, stack: Stack, *_: object) -> None:
        watched = [name for name in sorted(stack.only or ()) if self.specs[name] == "after"]
        if self.failing in watched:
            raise self.error(f"{self.failing} failed")


def test_nginx_is_updated_after_the_app(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    engine = Engine(monkeypatch)
    swarm._update(Stack("shop"), FILE, 1)
    assert engine.done == ["deploy app db", "deploy nginx", "rm shop_old"]
    assert "nginx has a new image or settings" in capsys.readouterr().out


def test_an_app_that_fails_leaves_nginx_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = Engine(monkeypatch, failing="shop_app")
    with pytest.raises(CommandError, match="shop_app failed"):
        swarm._update(Stack("shop"), FILE, 1)
    assert engine.done == ["deploy app db"]


def test_an_app_that_outlives_its_nginx_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    Engine(monkeypatch, failing="shop_nginx")
    with pytest.raises(CommandError) as failure:
        swarm._update(Stack("shop"), FILE, 1)
    assert failure.value.lines == ("shop_nginx failed", "the app stays new: docker service rollback shop_app")


@pytest.mark.usefixtures("logs")
def test_a_new_stack_that_fails_is_given_up() -> None:
    with pytest.raises(CommandError, match="docker stack rm shop"):
        swarm._follow(Said("", [failed(1), failed(2), failed(3)], (0, 3)), set(), 30)


def test_one_failure_of_a_new_stack_is_borne(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "sleep", lambda _: None)
    swarm._follow(Said("", [failed(1)]), set(), 1)


def test_a_stack_that_stays_incomplete_is_told() -> None:
    with pytest.raises(CommandError, match="not all of it runs after 0 s: docker stack ps shop"):
        swarm._follow(Said("completed", [], (2, 3)), set(), 0)
