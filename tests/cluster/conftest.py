"""What tests/chaos measures with, for clusters. `--full` reaches the full figures."""

import shutil
import tempfile
from pathlib import Path
from typing import Any

import pytest

from tests.chaos import conftest as chaos
from tests.chaos.conftest import figure, pick, verdict
from tests.support.compose import ROOT, docker

__all__ = ["figure", "pick", "verdict"]


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.slow)
            if config.getoption("--full"):
                item.add_marker(pytest.mark.timeout(chaos.FULL_TIMEOUT))


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    if not config.pluginmanager.has_plugin(str(chaos.__file__)):  # it prints the table itself
        chaos.pytest_terminal_summary(terminalreporter, config)


def with_probe(image: str) -> str:
    """Return an image of the application with the probe in it."""
    name = image.replace("ct-app", "ct-probe")
    with tempfile.TemporaryDirectory() as folder:
        shutil.copy(ROOT / "tests/support/probe.py", folder)
        Path(folder, "probe.py").chmod(0o644)
        Path(folder, "Dockerfile").write_text(f"FROM {image}\nCOPY probe.py /srv/\n")
        docker("build", "--quiet", "--tag", name, folder)
    return name
