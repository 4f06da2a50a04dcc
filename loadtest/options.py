"""What the user asked for: environment and Make variables, checked all at once."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from greenstack.cli import environment
from greenstack.cli.console import REFUSED, CommandError
from loadtest.schedule import Mode

SLO_P99_MS = 100.0  # ms; what people still feel as immediate (Nielsen, Usability Engineering, 1993)
PROFILE = "loadtest"
WORKERS_MAX = 1024  # as greenstack/server/settings.py has it
COUNTS_MAX = 12  # counts to compare; each takes minutes, and more than that are not needed to see a shape


@dataclass(frozen=True)
class Options:
    """The request. `target` is "", "containers", "processes" or a URL; "" means what this machine has."""

    mode: Mode = "quick"
    workers: tuple[int, ...] = ()
    profile: str = PROFILE
    slo_p99_ms: float = SLO_P99_MS
    target: str = ""
    baseline: Path | None = None
    resume: Path | None = None
    generators: int = 1
    seed: int | None = None
    given: dict[str, str] = field(default_factory=dict)  # what was said, for the command that repeats it


class _Reader:
    def __init__(self, environ: Mapping[str, str]) -> None:
        names = ("MODE", "WORKERS", "PROFILE", "SLO_P99_MS", "TARGET", "BASELINE", "RESUME", "GENERATORS", "SEED")
        # Empty is unset, as everywhere in this stack.
        self.given = {name: value.strip() for name in names if (value := environ.get(name, "")).strip()}
        self.faults: list[str] = []

    def fault(self, name: str, allowed: str) -> None:
        self.faults.append(f"{name}={self.given[name]}: must be {allowed}")

    def whole(self, name: str, least: int, most: int) -> int | None:
        value = self.given.get(name)
        if value is None:
            return None
        if not re.fullmatch(r"[0-9]{1,18}", value) or not least <= int(value) <= most:
            self.fault(name, f"a whole number from {least} to {most}")
            return None
        return int(value)

    def path(self, name: str) -> Path | None:
        if name not in self.given:
            return None
        path = Path(self.given[name])
        if not path.exists():
            self.fault(name, "a folder of loadtest/results, or the results.json in it; there is none")
        return path


def read(environ: Mapping[str, str]) -> Options:
    """Read the options out of `environ`; CommandError with one line for each fault."""
    reader = _Reader(environ)
    mode: Mode = "full" if reader.given.get("MODE") == "full" else "quick"
    if reader.given.get("MODE", mode) != mode:
        reader.fault("MODE", "quick or full")
    workers = _workers(reader)
    target = _target(reader, workers)
    options = Options(
        mode=mode,
        workers=workers,
        profile=_profile(reader),
        slo_p99_ms=_slo(reader),
        target=target,
        baseline=reader.path("BASELINE"),
        resume=reader.path("RESUME"),
        generators=reader.whole("GENERATORS", 1, 64) or 1,
        seed=reader.whole("SEED", 0, 2**53),  # JSON numbers are exact up to there
        given=reader.given,
    )
    if options.resume:
        for name in reader.given.keys() - {"RESUME", "BASELINE"}:
            reader.fault(name, "unset with RESUME, which goes on as it began")
    if reader.faults:
        raise CommandError(*reader.faults, status=REFUSED)
    return options


def _workers(reader: _Reader) -> tuple[int, ...]:
    words = re.split(r"[\s,]+", reader.given.get("WORKERS", ""))
    words = [word for word in words if word]
    allowed = f'up to {COUNTS_MAX} whole numbers from 1 to {WORKERS_MAX}, e.g. WORKERS="1 2 4"'
    if not all(re.fullmatch(r"[0-9]{1,4}", word) and 1 <= int(word) <= WORKERS_MAX for word in words):
        reader.fault("WORKERS", allowed)
        return ()
    counts = tuple(sorted({int(word) for word in words}))
    if len(counts) > COUNTS_MAX:
        reader.fault("WORKERS", allowed)
    if len(counts) == 1 and not reader.given.get("TARGET", "").lower().startswith("http"):
        reader.fault("WORKERS", 'two counts or more, to compare them, e.g. WORKERS="1 2 4"')
    return counts


def _target(reader: _Reader, workers: tuple[int, ...]) -> str:
    target = reader.given.get("TARGET", "")
    if target in ("", "containers", "processes"):
        return target
    try:
        parts = urlsplit(target)  # gives the scheme in small letters
        good = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or 1) > 0
    except ValueError:
        good = False
    if not good:
        reader.fault("TARGET", "a URL such as http://10.0.0.5:8080, or containers, or processes")
    elif len(workers) > 1:
        reader.fault("WORKERS", "one number with TARGET=http…: the workers there cannot be changed from here")
    return parts.scheme + target.rstrip("/")[len(parts.scheme) :] if good else ""


def _slo(reader: _Reader) -> float:
    value = reader.given.get("SLO_P99_MS")
    if value is None:
        return SLO_P99_MS
    if not re.fullmatch(r"[0-9]{1,6}(\.[0-9]+)?", value) or not 1 <= float(value) <= 60_000:
        reader.fault("SLO_P99_MS", "milliseconds, from 1 to 60000")
        return SLO_P99_MS
    return float(value)


def _profile(reader: _Reader) -> str:
    known = environment.profiles()
    name = reader.given.get("PROFILE", PROFILE)
    if "PROFILE" in reader.given and name not in known:
        reader.fault("PROFILE", "one of " + ", ".join(known) if known else "a file in env/; there is none")
    return name if name in known else ""
