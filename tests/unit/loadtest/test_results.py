import pytest

from greenstack.cli.console import CommandError
from loadtest import results
from tests.unit.loadtest import sample


def test_a_result_comes_back_as_it_was(tmp_path):
    measured = sample.results(mode="quick", workers=(1, 2))
    results.write(measured, tmp_path)
    assert results.read(tmp_path, "X") == results.read(tmp_path / results.FILE, "X") == measured


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("{", "not JSON"),
        ("\x00\xff", "not JSON"),
        ("[]", "not a result"),
        ('{"version": 1}', "format 1, but this is format 3"),
        ('{"version": 99}', "format 99"),
        ("{}", "created"),
    ],
)
def test_other_files_are_refused_in_one_line(tmp_path, text, word):
    (tmp_path / results.FILE).write_text(text)
    with pytest.raises(CommandError, match=word) as caught:
        results.read(tmp_path, "BASELINE")
    assert caught.value.status == 2
    assert len(caught.value.lines) == 1
    assert caught.value.lines[0].startswith(f"BASELINE={tmp_path}: ")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(CommandError, match="No such file"):
        results.read(tmp_path / "none.json", "BASELINE")


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    measured = sample.results(mode="quick", workers=(1, 2))
    results.write(measured, tmp_path)
    before = (tmp_path / results.FILE).read_bytes()

    def no_space(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(results.os, "fsync", no_space)
    measured.runs.clear()
    with pytest.raises(OSError, match="No space"):
        results.write(measured, tmp_path)
    assert (tmp_path / results.FILE).read_bytes() == before


def test_unknown_keys_are_refused_at_any_depth(tmp_path):
    results.write(sample.results(mode="quick", workers=(1, 2)), tmp_path)
    text = (tmp_path / results.FILE).read_text()
    (tmp_path / results.FILE).write_text(text.replace('"kernel"', '"kernal": "", "kernel"'))
    with pytest.raises(CommandError, match=r"machine\.kernal"):
        results.read(tmp_path, "X")
