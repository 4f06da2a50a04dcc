"""When the local stack, or its nginx, has to change."""

import pytest

from greenstack.cli import ROOT, daemon, environment, local
from greenstack.cli.console import CommandError
from greenstack.cli.environment import Environment
from greenstack.server.check import NAMES
from greenstack.server.settings import read_by_nginx


@pytest.mark.parametrize("name", [name for name, info in NAMES.items() if read_by_nginx(info)])
def test_each_setting_of_nginx_counts(name: str) -> None:
    assert local._fingerprint({name: "1"}) != local._fingerprint({})


def test_the_settings_of_others_do_not() -> None:
    assert local._fingerprint({"MAX_WORKERS": "1"}) == local._fingerprint({})


def test_a_failing_command_ends_nothing_that_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """What serves would have to be stopped, as nothing that reloads is there."""
    ended: list[object] = []
    monkeypatch.setattr(local, "running", lambda: ["app-1"])
    monkeypatch.setattr(local, "_ours", lambda *_: True)
    monkeypatch.setattr(daemon, "running", lambda _: [])
    monkeypatch.setattr(local, "down", ended.append)
    monkeypatch.setenv("PRE_DEPLOY", "false")
    with pytest.raises(CommandError, match="nothing is changed: the old version goes on"):
        local.up(environment.resolve(""))
    assert not ended


def test_the_folder_of_files_is_never_the_whole_repository() -> None:
    environ = local._nginx_environ(Environment("", (), {"STATIC_PATH": "/static"}, {}, {}, []))
    assert environ["STATIC_FILES"] == str(ROOT / "static")
