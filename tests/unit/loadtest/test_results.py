import pytest

from greenstack.cli.console import CommandError
from loadtest import results
from tests.unit.loadtest import made_up


def test_a_result_is_valid_and_comes_back_as_it_was(tmp_path):
    made = made_up.results(mode="quick", workers=(1, 2))
    results.write(made, tmp_path)
    assert results.read(tmp_path, "X") == results.read(tmp_path / results.FILE, "X") == made


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("{", "not JSON"),
        ("\x00\xff", "not JSON"),
        ("[]", "not a result"),
        ("{}", "format None"),
        ('{"version": 99}', "format 99"),
        ('{"version": 1}', "created"),
    ],
)
def test_what_is_no_result_is_refused_in_one_line(tmp_path, text, word):
    (tmp_path / results.FILE).write_text(text)
    with pytest.raises(CommandError, match=word) as caught:
        results.read(tmp_path, "BASELINE")
    assert caught.value.status == 2
    assert len(caught.value.lines) == 1
    assert caught.value.lines[0].startswith(f"BASELINE={tmp_path}: ")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(CommandError, match="No such file"):
        results.read(tmp_path / "none.json", "RESUME")


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    made = made_up.results(mode="quick", workers=(1, 2))
    results.write(made, tmp_path)
    before = (tmp_path / results.FILE).read_bytes()

    def no_space(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(results.os, "fsync", no_space)
    made.runs.clear()
    with pytest.raises(OSError, match="No space"):
        results.write(made, tmp_path)
    assert (tmp_path / results.FILE).read_bytes() == before


def test_repeated_steps_count_once():
    made = made_up.results(mode="quick", workers=(1, 2))
    again = made.runs[0].model_copy(update={"throughput": 1.0})
    made.runs.append(again)
    assert len(made.counting("capacity")) == len(made.runs) - 1
    assert again in made.counting("capacity")
