"""Schemathesis sends what the application's own schema allows, and what it does not: never a 5xx."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.chaos.conftest import Pick, Running
from tests.support.programs import needs


@pytest.mark.slow
@needs("nginx")
def test_no_server_error(running: Running, pick: Pick) -> None:
    with running(APP_MODULE="app.main:app") as stack:
        schema = f"http://{stack.address[0]}:{stack.address[1]}/openapi.json"
        command = [
            str(Path(sys.executable).with_name("schemathesis")), "run", schema, "--checks", "not_a_server_error",
            "--max-examples", str(pick(50, 500)),
        ]  # fmt: skip
        run = subprocess.run(command, cwd=stack.folder, capture_output=True, text=True, check=False)
        assert run.returncode == 0, run.stdout + run.stderr
