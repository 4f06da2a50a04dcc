import json
import subprocess
import sys
from pathlib import Path

import pytest

from greenstack.cli import ROOT
from greenstack.cli.console import CommandError
from greenstack.cli.environment import resolve
from loadtest import draft
from loadtest.draft import Log, combine, generalized, operations, read_log, text

DOCUMENT = {
    "paths": {
        "/items/{item_id}": {
            "get": {
                "parameters": [{"name": "item_id", "in": "path", "schema": {"type": "integer"}}],
                "responses": {"200": {}, "422": {}},
            }
        },
        "/items/newest": {"get": {"responses": {"200": {}}}},
        "/orders": {
            "post": {
                "security": [{"bearer": []}],
                "requestBody": {"content": {"application/json": {"schema": {"$ref": "#/components/schemas/Order"}}}},
                "responses": {"201": {}},
            }
        },
    },
    "components": {
        "schemas": {
            "Order": {
                "type": "object",
                "required": ["name", "count"],
                "properties": {"name": {"type": "string"}, "count": {"type": "integer"}, "note": {"type": "string"}},
            }
        }
    },
}


def line(second: int, method: str, uri: str, status: int = 200) -> str:
    return json.dumps({"time": f"2026-01-01T00:00:{second:02}+00:00", "method": method, "uri": uri, "status": status})


LINES = [
    *(line(n, "GET", f"/items/{n}?token=secret{n}") for n in range(30)),
    *(line(n, "GET", "/items/newest") for n in range(10)),
    *(line(n, "POST", "/orders", 201) for n in range(19)),
    line(59, "GET", "/reset/Zq81kd02hHq/form?user=me@example.com"),
    line(5, "GET", "/wp-login.php", 404),
    "nginx: 2 worker(s)",
    '{"time": 5}',
]


def test_the_document_says_methods_bodies_and_statuses() -> None:
    by_route = {(known.method, known.template): known for known in operations(DOCUMENT)}
    order = by_route["POST", "/orders"]
    assert (order.body, order.status, order.secured) == ({"name": "text", "count": 1}, 201, True)
    assert by_route["GET", "/items/{item_id}"].parameters == {"item_id": {"type": "integer"}}


def test_the_log_says_the_mix() -> None:
    log = read_log(LINES)
    counts = {known.template: known.count for known in combine(operations(DOCUMENT), log)}
    assert counts == {"/items/{item_id}": 30, "/orders": 19, "/items/newest": 10, "/reset/{id}/form": 1}
    assert log.seconds == 60


@pytest.mark.parametrize(
    ("path", "template"),
    [
        ("/users/42", "/users/{id}"),
        ("/v1/users/me@example.com/keys", "/v1/users/{id}/keys"),
        ("/s/8f14e45fceea167a5a36dedd4bea2543", "/s/{id}"),
        ("/", "/"),
    ],
)
def test_only_plain_words_of_a_path_are_copied(path: str, template: str) -> None:
    assert generalized(path) == template


def test_nothing_secret_is_copied() -> None:
    drafted = text(combine([], read_log(LINES)), read_log(LINES))
    for secret in ("secret", "example.com", "Zq81kd02hHq", "token="):
        assert secret not in drafted


def test_the_draft_is_a_scenario_that_runs(tmp_path: Path) -> None:
    log = read_log(LINES)
    file = tmp_path / "locustfile.py"
    file.write_text(text(combine(operations(DOCUMENT), log), log))
    script = f"""
import random, runpy
names = runpy.run_path({str(file)!r})
from loadtest.generator.scenario import Prepared
for weight, make in names["Application"].routes:
    call = make(random.Random(1))
    print(weight, call.method, call.name, call.status, Prepared(call, "http://h").before.split(b" ")[1].decode())
"""
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr
    first, second, *_ = done.stdout.splitlines()
    assert first.startswith("50 GET /items/{item_id} 200 /items/")
    assert first.rpartition("/")[2].isdigit()
    assert second == "32 POST /orders 201 /orders"
    assert "def login" in file.read_text()
    assert "60 requests in the access log (1.0 a second over 60 s)" in file.read_text()


def test_hostile_documents_write_no_code(tmp_path: Path) -> None:
    document = {"paths": {'/{__import__("os")._exit(7)}/"""+x\n': {"get": {}}}}
    file = tmp_path / "locustfile.py"
    file.write_text(text(combine(operations(document), Log(read_log([]).requests, 0.0)), read_log([])))
    compile(file.read_text(), "draft", "exec")
    assert "os" not in file.read_text().partition("return Call(")[2].partition("{")[0]
    assert 'f"' not in file.read_text()


def test_it_is_written_beside_the_scenario(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(draft, "ROOT", tmp_path)
    monkeypatch.setattr(draft, "DRAFT", tmp_path / "locustfile.draft.py")
    (tmp_path / "access.log").write_text("\n".join(LINES))
    said = draft.draft(str(tmp_path / "access.log"), resolve(""), "http://127.0.0.1:1")
    assert said[0] == "4 routes, 60 requests of the access log: locustfile.draft.py"
    assert "mv locustfile.draft.py loadtest/locustfile.py" in said[1]


def test_a_source_without_routes_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty.log").write_text("nothing")
    with pytest.raises(CommandError, match="no routes") as caught:
        draft.draft(str(tmp_path / "empty.log"), resolve(""), "http://127.0.0.1:1")
    assert caught.value.status == 2
    with pytest.raises(CommandError, match="No such file"):
        draft.draft(str(tmp_path / "none.json"), resolve(""), "http://127.0.0.1:1")
