"""Which version a rollback means, and what the versions are called."""

import itertools
from typing import Any, cast

import pytest

from greenstack.cli import docker, versions
from greenstack.cli.console import CommandError
from greenstack.cli.docker import Compose, Container
from greenstack.cli.environment import Environment
from greenstack.cli.versions import Version

COMMITS = [letter * 40 for letter in "abc"]
VERSIONS = [
    Version(f"20260101-00000{number}-{commit[:12]}", f"sha256:{number}", commit)
    for number, commit in enumerate(COMMITS)
]
COMPOSE = cast(Compose, None)
IN_SERVICE = versions.in_service


@pytest.fixture(autouse=True)
def three(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(versions, "kept", lambda _: VERSIONS)
    monkeypatch.setattr(versions, "in_service", lambda _: "sha256:2")


def test_a_rollback_goes_to_the_version_before(monkeypatch: pytest.MonkeyPatch) -> None:
    assert versions.wanted(COMPOSE, "") == VERSIONS[1]
    monkeypatch.setattr(versions, "in_service", lambda _: "sha256:1")
    assert versions.wanted(COMPOSE, "") == VERSIONS[0]


@pytest.mark.parametrize("to", [VERSIONS[0].tag, "aaaa", COMMITS[0]])
def test_a_version_is_named_by_tag_or_revision(to: str) -> None:
    assert versions.wanted(COMPOSE, to) == VERSIONS[0]


@pytest.mark.parametrize(
    ("serving", "to", "says"),
    [
        ("sha256:2", "dddd", "TO=dddd: no such version; allowed: 20260101-000000-aaaaaaaaaaaa, "),
        ("sha256:0", "", "there is no version before the one in service"),
        (None, "", "nothing runs: make up"),
    ],
)
def test_a_rollback_to_nowhere_is_refused(
    monkeypatch: pytest.MonkeyPatch, serving: str | None, to: str, says: str
) -> None:
    monkeypatch.setattr(versions, "in_service", lambda _: serving)
    with pytest.raises(CommandError, match=says):
        versions.wanted(COMPOSE, to)


@pytest.mark.parametrize(
    ("states", "image"),
    [
        ([], None),
        (["exited"], None),
        (["restarting"], "image0"),
        (["running", "running"], "image1"),
        (["running", "restarting"], "image0"),
    ],
)
def test_the_newest_that_runs_is_in_service(
    monkeypatch: pytest.MonkeyPatch, states: list[str], image: str | None
) -> None:
    made = [Container(str(number), "", "app", state, "", 0) for number, state in enumerate(states)]
    monkeypatch.setattr(Compose, "containers", lambda *_: made)
    monkeypatch.setattr(docker, "inspect", lambda name: {"Image": f"image{name}", "Created": f"2026-01-0{name}"})
    assert IN_SERVICE(Compose.__new__(Compose)) == image


class Stack:
    """A stack whose versions are called a, b, c, and no engine."""

    environment = Environment("", (), {}, {}, {}, [])

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.tags: dict[str, str] = {}  # image by name
        self.serving: str | None = None
        numbers = itertools.count()
        monkeypatch.setattr(versions, "in_service", lambda _: self.serving)
        monkeypatch.setattr(versions, "kept", lambda _: versions._kept("app"))
        monkeypatch.setattr(versions, "_new_tag", lambda image: f"20260101-{next(numbers):06}-{image}")
        monkeypatch.setattr(docker, "output", self.output)
        monkeypatch.setattr(docker, "image", self.image)
        monkeypatch.setattr(docker, "remove_images", lambda names: [self.tags.pop(name) for name in names])

    def services(self) -> dict[str, Any]:
        return {"app": {"image": "app:latest"}}

    def output(self, *words: str) -> str:
        if words[0] == "tag":
            self.tags[words[2]] = words[1]
        return "\n".join(name.partition(":")[2] for name in self.tags)

    def image(self, name: str) -> dict[str, Any]:
        image = self.tags.get(name, name)
        return {"Id": image, "Config": {}, "RepoTags": [each for each, of in self.tags.items() if of == image]}

    def deploy(self, *images: str) -> None:
        for image in images:
            versions.renew(cast(Compose, self))
            self.serving = image
            versions.keep(cast(Compose, self))

    def rollback(self) -> str:
        self.serving = versions.wanted(cast(Compose, self), "").image
        return self.serving


def test_the_version_before_is_the_one_that_was_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    stack = Stack(monkeypatch)
    stack.deploy("a", "b", "c", "bad")
    assert [stack.rollback(), stack.rollback()] == ["c", "b"], "step by step"
    stack.deploy("worse")
    assert stack.rollback() == "b", "not the bad one, which a rollback has left"
    stack.deploy("a", "d")
    assert stack.rollback() == "a"


@pytest.mark.parametrize(("named", "gone"), [({}, ["new"]), ({"registry/app:7": "new"}, [])])
def test_a_refused_image_does_not_stay(monkeypatch: pytest.MonkeyPatch, named: dict[str, str], gone: list[str]) -> None:
    stack = Stack(monkeypatch)
    removed: list[str] = []
    monkeypatch.setattr(docker, "remove_images", removed.extend)
    stack.serving = "old"
    stack.tags = {"app:latest": "new", **named}
    with pytest.raises(CommandError), versions.or_back(cast(Compose, stack)):
        raise CommandError("the new one is not healthy")
    assert stack.tags == {"app:latest": "old", **named}
    versions.give_back(cast(Compose, stack))
    assert removed == gone


def test_the_five_last_in_service_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    stack = Stack(monkeypatch)
    stack.deploy("a", "b", "c", "d", "e", "a", "f")
    assert [version.image for version in versions._kept("app")] == ["c", "d", "e", "a", "f"]
    assert "b" not in stack.tags.values()


@pytest.mark.parametrize(
    ("labels", "ending"),
    [
        ({versions.REVISION: COMMITS[0]}, "-aaaaaaaaaaaa"),
        ({versions.REVISION: f"{COMMITS[0]}-dirty"}, "-aaaaaaaaaaaa-dirty"),
        ({versions.REVISION: "v1.2+build 3"}, "-v1.2-build-3"),
        ({versions.REVISION: "unknown"}, ""),
        (None, ""),
    ],
)
def test_a_versions_name_has_time_and_revision(
    monkeypatch: pytest.MonkeyPatch, labels: dict[str, str] | None, ending: str
) -> None:
    found: dict[str, Any] = {"Config": {"Labels": labels}}
    monkeypatch.setattr(docker, "image", lambda _: found)
    name = versions._new_tag("sha256:1")
    assert name[15:] == ending
    assert Version(name, "", "").since.startswith(f"{name[:4]}-{name[4:6]}-{name[6:8]} ")


@pytest.mark.parametrize(
    ("name", "repository"),
    [
        ("a-app:latest", "a-app"),
        ("host:5000/a/app:1", "host:5000/a/app"),
        ("host:5000/a/app", "host:5000/a/app"),
        ("a/b@sha256:0", "a/b"),
    ],
)
def test_the_tag_is_not_the_repositorys(name: str, repository: str) -> None:
    assert docker.repository(name) == repository
