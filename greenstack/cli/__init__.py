"""The commands behind the Makefile: they run the stack in containers, or as local processes."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
RUN = ROOT / ".run"  # what the commands remember: profile, pidfiles, logs
