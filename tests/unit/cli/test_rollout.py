"""Rolling replicas: new ones first, and what goes wrong leaves the old ones alone."""

import pytest
from typing_extensions import override

from greenstack.cli import rollout
from greenstack.cli.console import CommandError


class Fake(rollout.Replicas):
    """Replicas that note what is done to them."""

    def __init__(self, *names: str, broken: str = "", slow: str = "", unlisted: str = "", fault: str = "") -> None:
        self.names = list(names)
        self.broken, self.slow, self.unlisted, self.fault = broken, slow, unlisted, fault
        self.graceful_timeout = "0"
        self.done: list[str] = []
        self.hung_up: set[str] = set()

    @override
    def running(self) -> list[str]:
        return list(self.names)

    @override
    def start(self, count: int) -> list[str]:
        new = [f"new{number}" for number in range(1, count + 1)]
        self.names += new
        self.done.append(f"start {count}")
        return new

    @override
    def ready(self, name: str) -> bool:
        if name == self.broken:
            raise CommandError(f"{name} has ended")
        return name != self.slow

    @override
    def listed(self, name: str) -> bool:
        return name != self.unlisted

    @override
    def environ(self, name: str) -> dict[str, str]:
        return {"GRACEFUL_TIMEOUT": self.graceful_timeout, "START_TIMEOUT": "0.1"}

    @override
    def workers(self, name: str) -> set[int]:
        return {2} if name in self.hung_up else {1}

    @override
    def reload_fault(self, name: str) -> str | None:
        return self.fault or None

    @override
    def hang_up(self, name: str) -> None:
        self.hung_up.add(name)

    @override
    def stop(self, names: list[str]) -> None:
        self.done.append(f"stop {' '.join(names)}")
        self.names = [name for name in self.names if name not in names]

    @override
    def log(self, name: str) -> list[str]:
        return [f"log of {name}"]


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rollout, "LISTED_DEADLINE", 0.1)
    monkeypatch.setattr(rollout, "POLL", 0.01)


def test_new_replicas_serve_before_old_ones_go() -> None:
    replicas = Fake("old1", "old2")
    rollout.replace(replicas)
    assert replicas.done == ["start 2", "stop old1 old2"]
    assert replicas.names == ["new1", "new2"]


def test_a_replica_that_is_ready_at_the_last_look_serves(monkeypatch: pytest.MonkeyPatch) -> None:
    replicas = Fake("old1")
    answers = iter([False, True])
    monkeypatch.setattr(replicas, "ready", lambda _: next(answers))
    monkeypatch.setattr(rollout, "wait_until", lambda condition, *_: bool(condition()))
    rollout.replace(replicas)
    assert replicas.names == ["new1"]


@pytest.mark.parametrize(
    ("trouble", "says"),
    [
        ({"broken": "new2"}, "new2 has ended"),
        ({"slow": "new1"}, "new1 is not ready after START_TIMEOUT=0.1 seconds: its log is above"),
        ({"unlisted": "new2"}, "new1 is ready, but nginx does not use it"),
        ({"slow": "new1", "broken": "new2"}, "new2 has ended"),
    ],
)
def test_a_failed_new_version_is_removed(trouble: dict[str, str], says: str) -> None:
    replicas = Fake("old1", "old2", **trouble)
    with pytest.raises(CommandError) as failed:
        rollout.replace(replicas)
    assert any(says in line for line in failed.value.lines)
    assert failed.value.lines[-1] == "the new version did not become ready and is removed; the old one goes on"
    assert failed.value.status == 1
    assert replicas.names == ["old1", "old2"]


def test_what_is_switched_waits_for_readiness() -> None:
    replicas = Fake("old1")
    rollout.replace(replicas, lambda: replicas.done.append("switch"))
    assert replicas.done == ["start 1", "switch", "stop old1"]
    slow = Fake("old1", slow="new1")
    with pytest.raises(CommandError, match="not ready"):
        rollout.replace(slow, lambda: slow.done.append("switch"))
    assert slow.done == ["start 1", "stop new1"]


def test_an_interruption_removes_the_new_ones_too(monkeypatch: pytest.MonkeyPatch) -> None:
    replicas = Fake("old1")

    def interrupted(_: str) -> bool:
        raise KeyboardInterrupt

    monkeypatch.setattr(replicas, "ready", interrupted)
    with pytest.raises(KeyboardInterrupt):
        rollout.replace(replicas)
    assert replicas.names == ["old1"]


def test_scaling_adds_new_or_stops_the_newest() -> None:
    replicas = Fake("old1")
    rollout.scale(replicas, 3)
    assert replicas.names == ["old1", "new1", "new2"]
    rollout.scale(replicas, 3)
    rollout.scale(replicas, 1)
    assert replicas.names == ["old1"]
    assert replicas.done == ["start 2", "stop new1 new2"]


def test_a_reload_checks_first() -> None:
    replicas = Fake("old1", "old2", fault="APP_MODULE=x: cannot be imported")
    with pytest.raises(CommandError) as refused:
        rollout.reload(replicas)
    assert refused.value.lines == ("APP_MODULE=x: cannot be imported", "not reloaded: the service goes on as it is")
    assert refused.value.status == 2
    assert not replicas.hung_up


def test_a_reload_waits_for_every_replicas_new_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    replicas = Fake("old1", "old2")
    rollout.reload(replicas)
    assert replicas.hung_up == {"old1", "old2"}
    monkeypatch.setattr(replicas, "hang_up", lambda _: None)
    replicas.hung_up.clear()
    with pytest.raises(CommandError, match=r"old1 still has old workers after 0\.1 s"):
        rollout.reload(replicas)


@pytest.mark.parametrize(("given", "seconds"), [("", 120), ("3600", 3600)])
def test_a_reload_waits_the_graceful_timeout_too(monkeypatch: pytest.MonkeyPatch, given: str, seconds: int) -> None:
    replicas, waited = Fake("old1"), list[float]()
    replicas.graceful_timeout = given
    monkeypatch.setattr(rollout, "wait_until", lambda _, seconds, *pause: not waited.append(seconds))
    rollout.reload(replicas)
    assert waited == [0.1 + seconds]


@pytest.mark.parametrize(
    "looks",
    [[{1}, {1}, {1, 2}, {1}], [{1, 2}, {1, 2, 3, 4}, {1, 2, 4, 5}, {1, 2, 5, 6}]],
    ids=["nobody follows", "others follow at once"],
)
def test_a_reload_whose_workers_end_says_so(monkeypatch: pytest.MonkeyPatch, looks: list[set[int]]) -> None:
    replicas = Fake("old1")
    replicas.graceful_timeout = "60"  # the looks end it, and not the time
    workers = iter(looks)
    monkeypatch.setattr(replicas, "workers", lambda _: next(workers))
    with pytest.raises(CommandError, match="the new workers ended, the old ones go on"):
        rollout.reload(replicas)


@pytest.mark.parametrize(
    "looks",
    [[{1, 2}, {1, 2, 3, 4}, {1, 2, 4, 5}, {2, 4, 5}, {4, 5}], [set(), set(), {1}]],
    ids=["one new worker ends", "no old worker is there"],
)
def test_a_reload_whose_workers_serve_is_no_failure(monkeypatch: pytest.MonkeyPatch, looks: list[set[int]]) -> None:
    replicas = Fake("old1")
    replicas.graceful_timeout = "60"  # the looks end it, and not the time
    workers = iter(looks)
    monkeypatch.setattr(replicas, "workers", lambda _: next(workers))
    rollout.reload(replicas)
    assert next(workers, None) is None


def test_a_tracebacks_last_line_is_the_reason() -> None:
    assert rollout.fault_in(0, "noise") is None
    assert rollout.fault_in(1, "Traceback (most recent call last):\n  x\nSyntaxError: bad\n") == "SyntaxError: bad"
    assert rollout.fault_in(2, "A=1: bad\nB=2: bad\n") == "A=1: bad\nB=2: bad"
    assert rollout.fault_in(9, "") == "the check ended with status 9"
