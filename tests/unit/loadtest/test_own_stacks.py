"""What the targets share that start stacks themselves, with stacks that are told what to do."""

import pytest

from greenstack.cli.console import CommandError
from loadtest import targets
from loadtest.targets import NotReadyError, OwnStacks
from loadtest.targets.worker_probe import Snapshot


class Stacks(OwnStacks):
    """Stacks that only count; at each look the first one has the next of `seen` workers, then the last of them."""

    def __init__(self, *seen):
        super().__init__()
        self.seen, self.adopted, self.ended = list(seen), [], set()

    def snapshot(self, workers=0, *, memory=False):
        count = self.seen.pop(0) if len(self.seen) > 1 else self.seen[0]
        return Snapshot(0.0, list(range(count)), 0.0, 1, 0, 0, None, 2, None)

    def _prepare(self):
        self.url = "http://x"

    def _launch(self, workers):
        pass

    def _adopt(self, workers):
        self.adopted.append(workers)

    def pause(self, workers):
        if workers in self.ended:
            raise CommandError(f"container {workers} is not running")


@pytest.fixture(autouse=True)
def at_once(monkeypatch):
    monkeypatch.setattr(targets, "STILL", 0)


def test_the_first_stack_has_forked_all_workers():
    stacks = Stacks(1, 1, 2, 3, 3, 4)
    stacks.prepare()
    stacks.start([3, 4])
    assert stacks.adopted == [4]


def test_workers_that_never_settle_are_told(monkeypatch):
    monkeypatch.setattr(targets, "READY_DEADLINE", 0.1)
    stacks = Stacks(*range(100_000))
    with pytest.raises(NotReadyError, match="the number of workers still changes after"):
        stacks.prepare()


def test_what_cannot_be_frozen_is_one_count_less():
    stacks = Stacks(2)
    stacks.ended = {3}
    (broken,) = stacks.start([1, 2, 3]).items()
    assert (broken[0], broken[1].lines) == (3, ("container 3 is not running",))


@pytest.mark.parametrize("line", ["", "{", "1", "{}", '{"time": 1}'])
def test_output_that_was_cut_off_is_one_failed_look(line):
    with pytest.raises(NotReadyError, match="was cut off"):
        targets.parsed(line)
