"""The settings in force, under the seed's names."""

import json

import pytest
from gunicorn.config import Config

from greenstack.server import effective
from greenstack.server.settings import Settings

SEED = [
    "loglevel", "workers", "bind", "backlog", "graceful_timeout", "timeout", "keepalive", "errorlog", "accesslog",
    "use_max_workers", "host", "port",
]  # fmt: skip


def configured(**settings: object) -> Config:
    cfg = Config()
    for name, value in settings.items():
        cfg.set(name, value)
    return cfg


def test_the_seeds_keys_come_first() -> None:
    said = effective.as_dict(configured(), Settings())
    assert list(said)[: len(SEED)] == SEED
    assert json.loads(json.dumps(said)) == said


def test_no_log_is_null_as_in_the_seed() -> None:
    said = effective.as_dict(configured(accesslog=None, errorlog=None), Settings())
    assert (said["accesslog"], said["errorlog"]) == (None, None)


def test_gunicorns_own_override_is_what_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(
        "GUNICORN_CMD_ARGS", "--bind 127.0.0.1:1 --bind unix:/x -w 7 --timeout=9 --forwarded-allow-ips 10.0.0.1"
    )
    said = effective.as_dict(
        effective.with_command_line(configured(workers=2)), Settings.from_environ({"MAX_WORKERS": "2"})
    )
    assert said["bind"] == "127.0.0.1:1,unix:/x"
    assert (said["workers"], said["use_max_workers"], said["timeout"]) == (7, 2, 9)
    assert said["workers_reason"] == "Gunicorn's own setting"
    assert said["forwarded_allow_ips"] == "10.0.0.1"


def test_where_the_worker_count_comes_from() -> None:
    settings = Settings.from_environ({"MAX_WORKERS": "2"})
    assert effective.as_dict(configured(workers=2), settings)["workers_reason"] == "MAX_WORKERS"


def test_addresses_to_try() -> None:
    assert effective.addresses(configured(bind=["unix:/a", "h:1", "fd://5"])) == ["unix:/a", "h:1"]
