"""What the images are said to be made from."""

import subprocess
from pathlib import Path

import pytest

from greenstack.cli import revision


def git(root: Path, *arguments: str) -> str:
    identity = ("-c", "user.name=a", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false")
    done = subprocess.run(["git", *identity, *arguments], cwd=root, check=True, capture_output=True, text=True)
    return done.stdout.strip()


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository with a commit that is nginx's and one that is not."""
    git(tmp_path, "init", "--quiet")
    (tmp_path / "nginx").mkdir()
    for name in ("nginx/x", "app.py"):
        (tmp_path / name).write_text("one")
        git(tmp_path, "add", ".")
        git(tmp_path, "commit", "--quiet", "--message", name)
    monkeypatch.setattr(revision, "ROOT", tmp_path)
    return tmp_path


def test_the_labels_tell_commit_and_time(checkout: Path) -> None:
    head, edge = git(checkout, "rev-parse", "HEAD"), git(checkout, "rev-parse", "HEAD~1")
    created = git(checkout, "log", "-1", "--format=%cI")
    assert revision.variables({}) == {"REVISION": head, "CREATED": created, "NGINX_REVISION": edge}


@pytest.mark.parametrize(
    ("changed", "dirty"), [("app.py", {"REVISION"}), ("nginx/new", {"REVISION", "NGINX_REVISION"})]
)
def test_uncommitted_changes_are_told(checkout: Path, changed: str, dirty: set[str]) -> None:
    (checkout / changed).write_text("two")
    told = revision.variables({})
    assert {name for name, value in told.items() if value.endswith("-dirty")} == dirty


def test_a_revision_that_is_given_stays(checkout: Path) -> None:
    assert revision.variables({"REVISION": "1.2"}) == {}


def test_without_git_nothing_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(revision, "ROOT", tmp_path)
    assert revision.variables({}) == {}, "no repository"
    monkeypatch.setenv("PATH", str(tmp_path))
    assert revision.variables({}) == {}, "no git"
