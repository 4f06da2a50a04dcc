import pytest

from greenstack.cli.console import CommandError
from loadtest import options


def test_defaults():
    found = options.read({})
    assert (found.mode, found.workers, found.generators, found.seed, found.target) == ("quick", (), 1, None, "")


def test_everything_is_read(tmp_path):
    found = options.read({
        "MODE": "full", "WORKERS": "4, 1 2 2", "SLO_P99_MS": "12.5", "TARGET": "",
        "BASELINE": str(tmp_path), "GENERATORS": "2", "SEED": "9", "PROFILE": "prod", "UNRELATED": "x",
    })  # fmt: skip
    assert (found.mode, found.workers, found.slo_p99_ms, found.generators, found.seed) == (
        "full",
        (1, 2, 4),
        12.5,
        2,
        9,
    )
    assert found.profile == "prod"
    assert found.baseline == tmp_path
    assert "UNRELATED" not in found.given


def test_resuming_goes_on_as_it_began(tmp_path):
    found = options.read({"RESUME": str(tmp_path), "BASELINE": str(tmp_path)})
    assert found.baseline == found.resume == tmp_path
    with pytest.raises(CommandError) as caught:
        options.read({"RESUME": str(tmp_path), "MODE": "full", "WORKERS": "1 2"})
    assert sorted(line.partition(":")[0] for line in caught.value.lines) == ["MODE=full", "WORKERS=1 2"]


def test_empty_is_unset():
    assert options.read(dict.fromkeys(("MODE", "WORKERS", "PROFILE", "SEED", "TARGET"), "")) == options.read({})


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
        ("RESUME", "/nowhere/at/all"),
        ("GENERATORS", "0"),
        ("GENERATORS", "1_0"),
        ("SEED", "-1"),
        ("PROFILE", "../prod"),
        ("PROFILE", "nosuch"),
    ],
)
def test_a_wrong_value_is_named_with_what_is_allowed(name, value):
    with pytest.raises(CommandError) as caught:
        options.read({name: value})
    assert caught.value.status == 2
    (line,) = caught.value.lines
    assert line.startswith(f"{name}={value.strip()}: must be ")


def test_a_scheme_in_capitals_is_the_same():
    assert options.read({"TARGET": "HTTP://Host:81/"}).target == "http://Host:81"


def test_all_faults_at_once():
    with pytest.raises(CommandError) as caught:
        options.read({"MODE": "x", "WORKERS": "y", "GENERATORS": "z"})
    assert len(caught.value.lines) == 3


def test_counts_cannot_be_changed_elsewhere():
    with pytest.raises(CommandError, match="cannot be changed from here"):
        options.read({"TARGET": "http://10.0.0.5:8080", "WORKERS": "1 2"})
    assert options.read({"TARGET": "http://10.0.0.5:8080/", "WORKERS": "2"}).target == "http://10.0.0.5:8080"
