"""Where tests/container/test_loadtest.py looks for what is in tests/support/compose.py."""

from tests.support.compose import ROOT, bare_environment, docker

__all__ = ["ROOT", "bare_environment", "docker"]
