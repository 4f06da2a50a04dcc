import json
from pathlib import Path

import jsonschema
import pytest

import loadtest
from loadtest import results
from stack.console import CommandError
from tests.unit.loadtest import made_up

SCHEMA = Path(loadtest.__file__).with_name("results.schema.json")


def test_the_schema_in_the_repository_is_that_of_the_code():
    # To renew it: python -m loadtest schema >loadtest/results.schema.json
    assert json.loads(SCHEMA.read_text()) == results.schema()


def test_a_result_is_valid_and_comes_back_as_it_was(tmp_path):
    made = made_up.results(mode="quick", workers=(1, 2))
    results.write(made, tmp_path)
    jsonschema.Draft202012Validator.check_schema(results.schema())
    jsonschema.validate(json.loads((tmp_path / results.FILE).read_text()), json.loads(SCHEMA.read_text()))
    assert results.read(tmp_path, "X") == results.read(tmp_path / results.FILE, "X") == made


def test_the_schema_refuses_what_is_not_a_result():
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({"version": 1, "state": "complete"}, results.schema())


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
