"""Programs that tests need: where one is missing a test is skipped, and with REQUIRE_ALL=1 it fails."""

import os
import re
import shutil
import sys
from pathlib import Path

import pytest

# Debian puts nginx where only root's PATH looks; what pip installs is beside the interpreter.
PATH = os.pathsep.join([os.environ["PATH"], "/usr/local/sbin", "/usr/sbin", str(Path(sys.executable).parent)])
# The reasons of skips that REQUIRE_ALL=1 does not accept. Others, as "no IPv6", are about the machine.
MISSING = re.compile(r"not installed|apt-get install|no Docker Engine|could not import")


def missing(*names: str) -> list[str]:
    """Return those of the programs that this machine does not have."""
    return [name for name in names if not shutil.which(name, path=PATH)]


def needs(*names: str) -> pytest.MarkDecorator:
    """Return a mark that skips a test where one of the programs is missing."""
    absent = missing(*names)
    return pytest.mark.skipif(bool(absent), reason=f"not installed: {', '.join(absent)}")


def refuse_skip(report: pytest.TestReport | pytest.CollectReport) -> None:
    """Turn a skip for a missing program into a failure if REQUIRE_ALL=1."""
    if report.skipped and os.environ.get("REQUIRE_ALL") == "1" and MISSING.search(str(report.longrepr)):
        report.outcome = "failed"
        report.longrepr = f"skipped, and REQUIRE_ALL=1: {report.longrepr}"
