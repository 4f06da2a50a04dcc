"""What the deprecated images read: named by the check, and counted as they did."""

import pytest

from greenstack.server import check, old_images


@pytest.mark.parametrize(
    ("variables", "cores", "workers"),
    [
        ({}, 1, 2),
        ({}, 4, 4),
        ({"WORKERS_PER_CORE": "2"}, 4, 8),
        ({"WORKERS_PER_CORE": "0.5"}, 4, 2),
        ({"WORKERS_PER_CORE": "0.5"}, 16, 8),
        ({"MAX_WORKERS": "24"}, 4, 4),
        ({"MAX_WORKERS": "1"}, 4, 1),
        ({"MAX_WORKERS": "0"}, 4, 4),
        ({"MAX_WORKERS": ""}, 4, 4),
        ({"WORKERS_PER_CORE": "3", "MAX_WORKERS": "10"}, 4, 10),
        ({"WEB_CONCURRENCY": "3"}, 4, 3),
        ({"WEB_CONCURRENCY": "3", "MAX_WORKERS": "24"}, 4, 3),
        ({"WEB_CONCURRENCY": "3", "MAX_WORKERS": "1"}, 4, 3),
    ],
)
def test_workers_are_counted_as_before(variables: dict[str, str], cores: int, workers: int) -> None:
    assert old_images.worker_count(variables, cores) == workers


@pytest.mark.parametrize("variables", [{"WORKERS_PER_CORE": "two"}, {"MAX_WORKERS": "1.5"}, {"WEB_CONCURRENCY": "-1"}])
def test_what_is_no_number_is_named(variables: dict[str, str]) -> None:
    ((name, value),) = variables.items()
    with pytest.raises(ValueError, match=f"{name}={value}: not a number of workers"):
        old_images.worker_count(variables, 4)


@pytest.mark.parametrize(
    "name", ["MODULE_NAME", "VARIABLE_NAME", "WORKERS_PER_CORE", "GUNICORN_CONF", "WORKER_CLASS", "PRE_START_PATH"]
)
def test_the_check_names_what_replaces_it(name: str) -> None:
    (line,) = check.problems({name: "x"})
    assert line.startswith(f"{name}=x: only the old images read it; instead: ")
    assert not check.problems({name: ""})


def test_what_is_the_applications_own_is_left_alone() -> None:
    own = {"MODULE_NAME": "billing", "MAX_WORKER": "7"}
    assert len(check.problems(own)) == 2
    assert len(check.problems(own | {"APP_VARIABLES": "MODULE_NAME"})) == 1
    assert check.problems(own | {"APP_VARIABLES": "MODULE_NAME MAX_WORKER"}) == []
    assert check.problems({"APP_VARIABLES": "A,B"}) == [
        "APP_VARIABLES=A,B: not a list of names; allowed: names of variables separated by spaces"
    ]


def test_the_check_says_which_count_is_in_force() -> None:
    both = {"MAX_WORKERS": "24", "WEB_CONCURRENCY": "3"}
    assert not check.problems(both)
    assert str(old_images.note(both)).startswith("MAX_WORKERS=24 is in force, and WEB_CONCURRENCY=3 is not")
    assert old_images.note({"MAX_WORKERS": "24", "WEB_CONCURRENCY": ""}) is None
