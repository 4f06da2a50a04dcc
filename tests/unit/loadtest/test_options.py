import pytest

from greenstack.cli.console import CommandError
from loadtest.__main__ import read


def test_defaults():
    options = read({})
    assert (options.mode, options.workers, options.generators, options.target) == ("quick", (), 1, "")
    assert (options.profile, options.slo_p99_ms, options.baseline) == ("loadtest", 100.0, None)


def test_everything_is_read(tmp_path):
    options = read({
        "MODE": "full", "WORKERS": "4, 1 2 2", "SLO_P99_MS": "12.5",
        "BASELINE": str(tmp_path), "GENERATORS": "2", "SEED": "9", "PROFILE": "prod",
    })  # fmt: skip
    assert (options.mode, options.workers, options.slo_p99_ms, options.generators, options.seed) == (
        "full",
        (1, 2, 4),
        12.5,
        2,
        9,
    )
    assert options.profile == "prod"
    assert options.baseline == tmp_path


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("MODE", "fast"),
        ("WORKERS", "0"),
        ("WORKERS", "two"),
        ("WORKERS", "1.5"),
        ("WORKERS", "-1"),
        ("WORKERS", "1025"),
        ("WORKERS", " ".join(map(str, range(1, 14)))),
        ("SLO_P99_MS", "0"),
        ("SLO_P99_MS", "1e3"),
        ("SLO_P99_MS", "nan"),
        ("TARGET", "10.0.0.5:8080"),
        ("TARGET", "ftp://somewhere"),
        ("TARGET", "http://"),
        ("TARGET", "http://host:99999"),
        ("BASELINE", "/nowhere/at/all"),
        ("GENERATORS", "0"),
        ("GENERATORS", "1_0"),
        ("SEED", "-1"),
        ("RATE", "0"),
        ("RATE", "many"),
        ("PROFILE", "../prod"),
        ("PROFILE", "nosuch"),
    ],
)
def test_a_wrong_value_is_named_with_its_bounds(name, value):
    with pytest.raises(CommandError) as caught:
        read({name: value})
    assert caught.value.status == 2
    (line,) = caught.value.lines
    allowed = (
        "quick or",
        "up to 12",
        "milliseconds",
        "a URL",
        "a folder",
        "a whole number",
        "one of dev",
        "requests/s",
    )
    assert line.startswith(tuple(f"{name}={value}: must be {start}" for start in allowed))


def test_a_scheme_in_capitals_is_the_same():
    assert read({"TARGET": "HTTP://Host:81/"}).target == "http://Host:81"


def test_pods_are_measured_for_a_rate():
    options = read({"TARGET": "kubernetes", "RATE": "20000", "LOADTEST_IMAGE": "registry.example/loadtest:1"})
    assert (options.target, options.rate, options.loadtest_image) == (
        "kubernetes",
        20000.0,
        "registry.example/loadtest:1",
    )


def test_pods_elsewhere_are_not_counted():
    with pytest.raises(CommandError, match="RATE=5: must be left out with TARGET=http"):
        read({"TARGET": "http://10.0.0.5:8080", "RATE": "5"})


def test_all_faults_at_once():
    with pytest.raises(CommandError) as caught:
        read({"MODE": "x", "WORKERS": "y", "GENERATORS": "z"})
    assert len(caught.value.lines) == 3


def test_counts_cannot_be_changed_elsewhere():
    with pytest.raises(CommandError, match="cannot be changed from here"):
        read({"TARGET": "http://10.0.0.5:8080", "WORKERS": "1 2"})
    assert read({"TARGET": "http://10.0.0.5:8080/", "WORKERS": "2"}).target == "http://10.0.0.5:8080"
