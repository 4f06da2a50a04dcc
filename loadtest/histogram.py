"""The one kind of histogram that is used: HdrHistogram of microseconds. All are alike, so they can be added."""

from hdrh.histogram import HdrHistogram

HIGHEST = 60_000_000  # µs; longer ones are counted as one minute
DIGITS = 3  # significant ones: a tenth of a percent, far below the noise


def histogram() -> HdrHistogram:
    """Make an empty one."""
    return HdrHistogram(1, HIGHEST, DIGITS)


def record(into: HdrHistogram, seconds: float) -> None:
    """Count one duration."""
    into.record_value(min(max(1, int(seconds * 1e6)), HIGHEST))
