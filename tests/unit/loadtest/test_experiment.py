"""What one broken stack means for the rest of an experiment."""

import io

from rich.console import Console

from greenstack.cli.console import CommandError
from loadtest.experiment import Experiment
from loadtest.report.terminal import Progress
from loadtest.schedule import Step
from loadtest.targets import NotReadyError, Target
from tests.unit.loadtest import sample


class Ended(Target):
    """Its stacks have ended meanwhile."""

    def __init__(self):
        super().__init__("http://127.0.0.1:1")
        self.resumed = []

    def resume(self, workers):
        self.resumed.append(workers)
        raise NotReadyError("it did not answer")

    def pause(self, workers):
        raise CommandError("container x is not running")


def test_a_stack_that_has_ended_leaves_the_others(tmp_path):
    results = sample.results()
    results.runs.clear()
    target = Ended()
    experiment = Experiment(target, results, tmp_path, Progress(Console(file=io.StringIO())))
    for workers in (2, 3, 2):
        experiment._visit(Step(0, "capacity", workers), None)
    assert [run.findings[0].reason for run in results.runs] == [
        "it did not answer",
        "it did not answer",
        "container x is not running",
    ]
    assert {run.findings[0].blame for run in results.runs} == {"target"}, "and not the generator"
    assert target.resumed == [2, 3], "what has ended is not asked again"
