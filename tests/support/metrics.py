"""Reads what is told in Prometheus' text format."""

from collections.abc import Mapping

from prometheus_client.parser import text_string_to_metric_families

from tests.support.http import Address, ask

Series = tuple[str, frozenset[tuple[str, str]]]
"""A name with its labels."""


def parse(text: str) -> dict[Series, float]:
    """Return each series with its value. Raises ValueError where the text is not in the format."""
    families = text_string_to_metric_families(text)
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in families
        for sample in family.samples
    }


def scrape(address: Address, path: str = "/metrics") -> dict[Series, float]:
    """Return what `path` tells at `address`. Raises LostError, TimeoutError."""
    response = ask(address, path)
    assert response.status == 200, response
    return parse(response.body.decode())


def total(series: Mapping[Series, float], name: str, **labels: str) -> float:
    """Return the sum of all series of that name that have these labels."""
    wanted = set(labels.items())
    return sum(value for (other, having), value in series.items() if other == name and wanted <= having)


def counters(series: Mapping[Series, float]) -> dict[Series, float]:
    """Return those that may never fall."""
    ends = ("_total", "_count", "_sum", "_bucket")
    return {key: value for key, value in series.items() if key[0].endswith(ends)}


def fallen(before: Mapping[Series, float], after: Mapping[Series, float]) -> list[str]:
    """Return in words what is lower in `after`, or missing there."""
    return [
        f"{name}{sorted(labels)}: {value} became {after.get((name, labels))}"
        for (name, labels), value in counters(before).items()
        if after.get((name, labels), -1.0) < value
    ]
