"""For all tests."""

import pytest

from greenstack.server import check


@pytest.fixture(autouse=True)
def no_settings_of_the_shell(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take our variables out of the environment, so that a test's outcome does not depend on whose shell it is."""
    for name in check.NAMES:
        monkeypatch.delenv(name, raising=False)
