"""The commands behind the Makefile: they run the stack in containers, or as local processes."""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
RUN = ROOT / ".run"  # what the commands remember: profile, pidfiles, logs

sys.path.insert(0, str(ROOT / "docker"))  # for the package `server`, whose settings and checks are used here
