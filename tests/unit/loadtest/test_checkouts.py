"""Two checkouts beside each other; what each measures is written by a Makefile of the test."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from greenstack.cli import ROOT
from greenstack.cli.console import CommandError
from loadtest import CANNOT, INTERRUPTED, REGRESSION, checkouts, report, results
from loadtest import __main__ as cli
from tests.unit.loadtest import sample

# Its load tests give the results in the folder `next`, in order, and note what they were asked for.
MAKEFILE = """.PHONY: loadtest
loadtest:
	@number=$$(ls loadtest/results | wc -l) && echo "$$SEED $$BASELINE" >>asked && \\
	mkdir loadtest/results/$$number && cp next/$$number.json loadtest/results/$$number/results.json && exit 3
"""


def checkout(folder: Path, *measured: results.Results) -> Path:
    for name in ("loadtest/results", "next"):
        (folder / name).mkdir(parents=True)
    (folder / "Makefile").write_text(MAKEFILE)
    (folder / "loadtest/__main__.py").touch()
    for number, result in enumerate(measured):
        (folder / f"next/{number}.json").write_bytes(results.ADAPTER.dump_json(result))
    return folder


def measured(factor=1.0, seed=1, **options):
    return sample.results("quick", (1, 2), lambda n: factor * 3000 * min(n, 2), seed, noise=0.002, **options)


@pytest.fixture
def beside(tmp_path, monkeypatch, capfd):
    """Return a function: the exit status and the Markdown of a change beside its base."""

    def run(before, after):
        base, change = checkout(tmp_path / "base", *before), checkout(tmp_path / "change", *after)
        compare = checkouts.compare
        monkeypatch.setattr(checkouts, "compare", lambda base: compare(base, change))
        with pytest.raises((SystemExit, CommandError)) as caught:
            cli.app(["capacity", "--base", str(base)])
        status = caught.value.code if isinstance(caught.value, SystemExit) else caught.value.status
        return status, capfd.readouterr().out

    return run


def test_a_certain_loss_is_exit_1(beside, tmp_path):
    status, text = beside([measured(), measured(seed=2)], [measured(0.8, seed=3)])
    assert status == REGRESSION
    assert text.startswith(f"{report.MARK}\n### Capacity: a regression\n")
    assert text == (tmp_path / "change/loadtest/results/0/comment.md").read_text()
    assert "regression" in (tmp_path / "change/loadtest/results/0/report.html").read_text()


def test_no_loss_is_exit_0(beside):
    status, text = beside([measured(), measured(seed=2)], [measured(seed=3)])
    assert status == 0
    assert "### Capacity: no regression\n" in text


def test_a_base_that_drifts_cannot_tell(beside):
    status, text = beside([measured(), measured(0.8, seed=2)], [measured(0.8, seed=3)])
    assert status == 0
    assert "### Capacity: cannot tell\n" in text
    assert "differ by 25." in text or "differ by 24." in text


def test_all_have_the_same_load(beside, tmp_path):
    beside([measured(), measured(seed=2)], [measured(seed=3)])
    first, again = (tmp_path / "base/asked").read_text().splitlines()
    (change,) = (tmp_path / "change/asked").read_text().splitlines()
    seed, _, baseline = change.partition(" ")
    assert seed.isdigit()
    assert baseline == str(tmp_path / "base/loadtest/results/0")
    assert first == f"{seed} "
    assert again == change


def test_what_was_not_measured_is_exit_3(beside):
    status, text = beside([measured(), measured()], [])
    assert status == CANNOT
    assert text.startswith(f"{report.MARK}\n### Capacity: not measured\n")
    assert "change: `make loadtest` gave no result" in text


def test_an_interrupted_load_test_ends_it(beside):
    partial = measured()
    partial.state = "interrupted"
    assert beside([partial], [])[0] == INTERRUPTED


def test_ctrl_c_begins_no_other_load_test(tmp_path):
    base = checkout(tmp_path / "base", measured(), measured())
    # Ctrl-C comes while the first one ends, with a result that is complete.
    (base / "Makefile").write_text(MAKEFILE.replace("&& exit 3", f"&& kill -INT {os.getpid()}"))
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(CommandError, match="base: the load test was interrupted") as caught:
        checkouts.compare(str(base), checkout(tmp_path / "change", measured()))
    assert caught.value.status == INTERRUPTED
    assert len((base / "asked").read_text().splitlines()) == 1
    assert signal.getsignal(signal.SIGINT) is before


def test_a_result_of_another_form_is_not_measured(beside, tmp_path):
    base = checkout(tmp_path / "base")
    (base / "next/0.json").write_text('{"version": 1}')
    with pytest.raises(CommandError) as caught:
        checkouts.measure(base, dict(os.environ))
    assert caught.value.status == CANNOT


@pytest.mark.parametrize(
    ("variables", "line"),
    [
        ({"BASE": ""}, "BASE=: must be another checkout of this repository, e.g. ../base, after"),
        ({"BASE": "/nowhere"}, "BASE=/nowhere: must be another checkout"),
        ({"BASE": str(ROOT), "TARGET": "http://127.0.0.1:1"}, "TARGET=http://127.0.0.1:1: must be containers or"),
    ],
    ids=["none", "nowhere", "elsewhere"],
)
def test_wrong_options_are_one_line(variables, line):
    done = subprocess.run(
        [sys.executable, "-m", "loadtest", "capacity"],
        cwd=ROOT, env={**os.environ, **variables}, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(line)
    assert done.stderr.count("\n") == 1
