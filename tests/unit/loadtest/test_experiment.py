from types import SimpleNamespace

import pytest

from loadtest import experiment
from loadtest.targets.processes import Processes
from loadtest.targets.url import Url
from tests.unit.loadtest import made_up


@pytest.mark.parametrize(
    ("controls", "shares", "hidden"), [(True, True, False), (False, True, True), (False, False, False)]
)
def test_a_target_of_others_on_this_machine_is_not_taken_for_their_programs(controls, shares, hidden, tmp_path):
    found = made_up.results(mode="quick", workers=(2,))
    found.shares_cpus = shares
    target = SimpleNamespace(controls_workers=controls, fleet=lambda _: None)
    made = experiment.Experiment(target, found, experiment.plan_of(found.setup), tmp_path, None)
    assert made._conditions().hidden == hidden
    assert Processes.controls_workers
    assert not Url.controls_workers
