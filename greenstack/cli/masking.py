"""Hides what looks like a secret where settings are shown."""

import re

MASK = "********"

# DB_PASSWORD, STRIPE_API_KEY, SECRET_KEY, TOKEN; not KEEP_ALIVE, and not DB_PASSWORD_FILE, which is a path.
_SECRET = re.compile(
    r"PASSW|PASSPHRASE|SECRET|CREDENTIAL|API_?KEY|(?:^|_)(?:PASS|PWD|TOKEN|KEYS?)(?:_|$)", re.IGNORECASE
)
_URL_PASSWORD = re.compile(r"(://[^\s/:@]*):[^\s/]+@")
_DSN_PASSWORD = re.compile(r"\b(password|pwd)=[^\s;]+", re.IGNORECASE)
_PRIVATE_KEY = "PRIVATE KEY-----"
# A key of a mapping with its value: what follows it further indented belongs to it.
_YAML_PAIR = re.compile(r"^( *)(\w+): (.*(?:\n+\1 +.*)*)", re.MULTILINE)


def masked(name: str, value: str) -> str:
    """Return `value` as it may be shown: of a secret nothing, of a URL or `key=value` words all but the password."""
    is_secret = _SECRET.search(name) and not name.upper().endswith("_FILE")
    if value and (is_secret or _PRIVATE_KEY in value):
        return MASK
    return _DSN_PASSWORD.sub(rf"\1={MASK}", _URL_PASSWORD.sub(rf"\1:{MASK}@", value))


def masked_yaml(text: str) -> str:
    """Return a configuration as `docker compose config` prints it, each value masked by its key."""

    def replace(pair: re.Match[str]) -> str:
        value = masked(pair[2], pair[3])
        return f"{pair[1]}{pair[2]}: " + (f'"{MASK}"' if value == MASK else value)

    return _YAML_PAIR.sub(replace, text)
