import pytest

from loadtest import pilot, usl


def law(users):
    return 100 * users / (1 + 0.05 * (users - 1) + 0.0002 * users * (users - 1))


def test_the_law_is_found_again():
    found = usl.fit({users: law(users) for users in (1, 4, 16, 64, 256)})
    assert found.rate == pytest.approx(100, rel=0.01)
    assert found.contention == pytest.approx(0.05, rel=0.02)
    assert found.coherence == pytest.approx(0.0002, rel=0.02)
    assert found.rms < 0.001
    assert found.at(16) == pytest.approx(law(16), rel=0.001)


def test_every_worker_has_some_that_wait():
    assert pilot.choose({4: 980, 16: 990, 64: 1000}, least=20) == (64, False)
    assert pilot.choose({4: 1000, 16: 500}, least=20) == (16, False)


def test_too_few_points_fit_nothing():
    assert usl.fit({1: 10.0, 2: 20.0, 4: 40.0}) is None


@pytest.mark.parametrize(
    ("throughput", "chosen", "rising"),
    [
        ({4: 300, 16: 900, 64: 1000, 256: 980}, 64, False),
        ({4: 980, 16: 990, 64: 1000, 256: 900}, 4, False),
        ({4: 100, 16: 400, 64: 1600, 256: 3000}, 256, True),
        ({32: 10}, 32, False),
    ],
)
def test_fewest_users_that_reach_the_capacity(throughput, chosen, rising):
    assert pilot.choose(throughput) == (chosen, rising)
