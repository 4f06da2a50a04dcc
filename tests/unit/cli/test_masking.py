"""What looks like a secret is not shown."""

import pytest

from greenstack.cli.masking import MASK, masked, masked_yaml

PEM = "-----BEGIN PRIVATE KEY-----\nMC4CAQ\n-----END PRIVATE KEY-----"


@pytest.mark.parametrize(
    "name",
    [
        "DB_PASSWORD",
        "PGPASSWORD",
        "SECRET_KEY",
        "STRIPE_API_KEY",
        "OPENAI_APIKEY",
        "github_token",
        "SMTP_PASS",
        "AWS_CREDENTIALS",
    ],
)
def test_secrets_are_hidden_by_name(name: str) -> None:
    assert masked(name, "pa$word") == MASK
    assert masked(name, "") == "", "that it is empty is worth knowing"
    assert masked(f"{name}_FILE", "/run/secrets/x") == "/run/secrets/x"


@pytest.mark.parametrize("name", ["KEEP_ALIVE", "MONKEY", "MAX_TOKENS", "COMPASS", "BYPASS_CACHE", "GREETING"])
def test_other_names_are_shown(name: str) -> None:
    assert masked(name, "value") == "value"


def test_secrets_are_hidden_by_value() -> None:
    assert masked("DATABASE_URL", "postgresql://me:s3:cret@db:5432/x") == f"postgresql://me:{MASK}@db:5432/x"
    assert masked("CACHE", "redis://:s3cret@cache/0") == f"redis://:{MASK}@cache/0"
    assert masked("DATABASE_URL", "postgresql://db:5432/x") == "postgresql://db:5432/x"
    assert masked("SIGNING", PEM) == MASK
    assert masked("DSN", "host=db password=s3cret user=me") == f"host=db password={MASK} user=me"
    assert masked("URL", "http://u:s@cret@host/x") == f"http://u:{MASK}@host/x"


QUOTED = f'"{MASK}"'
SHOWN = """\
services:
  app:
    environment:
      DATABASE_URL: postgresql://me:{}@db/x
      SIGNING_KEY: {}
      TIMEOUT: "5"
      TOKEN: {}
    secrets:
      - source: ca
secrets:
  ca:
    file: /x
"""


def test_a_configuration_keeps_all_but_secrets() -> None:
    block = "|-" + "".join(f"\n        {line}" for line in PEM.splitlines())
    text = SHOWN.format("x", block, "a")
    assert masked_yaml(text) == SHOWN.format(MASK, QUOTED, QUOTED)
