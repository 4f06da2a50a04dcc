"""When the nginx of the local stack has to change."""

import pytest

from greenstack.cli import ROOT, local
from greenstack.cli.environment import Environment
from greenstack.server.check import NAMES
from greenstack.server.settings import read_by_nginx


@pytest.mark.parametrize("name", [name for name, info in NAMES.items() if read_by_nginx(info)])
def test_each_setting_of_nginx_counts(name: str) -> None:
    assert local._fingerprint({name: "1"}) != local._fingerprint({})


def test_the_settings_of_others_do_not() -> None:
    assert local._fingerprint({"MAX_WORKERS": "1"}) == local._fingerprint({})


def test_the_folder_of_files_is_never_the_whole_repository() -> None:
    environ = local._nginx_environ(Environment("", (), {"STATIC_PATH": "/static"}, {}, {}, []))
    assert environ["STATIC_FILES"] == str(ROOT / "static")
