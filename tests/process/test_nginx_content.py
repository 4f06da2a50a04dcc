"""What nginx does with answers: compression, its cache, files of its own."""

import gzip
import http.client
import json
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from tests.process.nginx_helpers import Nginx, needs_nginx, nginx
from tests.support.wait import until

pytestmark = needs_nginx


@pytest.fixture(scope="module")
def edge() -> Iterator[Nginx]:
    """One with a cache and a folder of files, in front of one app."""
    with nginx() as server:
        files = server.folder / "files"
        files.mkdir()
        (files / "style.css").write_text("body{}" * 1000)
        (files / "manual").mkdir()
        (files / "manual/index.html").write_text("manual")
        (server.folder / "private").touch()
        (files / "link").symlink_to(server.folder / "private")
        server.app()
        yield server.start(RESPONSE_CACHE="1m", STATIC_PATH="/assets/v1", STATIC_FILES=str(files))


def get(server: Nginx, path: str, **headers: str) -> httpx.Response:
    """One request over a new connection; the body is as it came."""
    url = "http://{}:{}".format(*server.address) + path
    with httpx.Client(trust_env=False, timeout=30) as client, client.stream("GET", url, headers=headers) as answer:
        answer._content = b"".join(answer.iter_raw())
        return answer


@pytest.mark.parametrize("kind", ["application/json", "text/html", "image/svg+xml", "text/css", "text/javascript"])
def test_what_gains_is_compressed(edge: Nginx, kind: str) -> None:
    answer = get(edge, f"/?bytes=5000&Content-Type={kind.replace('+', '%2B')}")
    assert (answer.headers["content-encoding"], answer.headers["vary"]) == ("gzip", "Accept-Encoding")
    assert gzip.decompress(answer.content) == b"x" * 5000
    plain = get(edge, f"/?bytes=5000&Content-Type={kind.replace('+', '%2B')}", **{"accept-encoding": "identity"})
    assert plain.content == b"x" * 5000


@pytest.mark.parametrize("query", [
    "bytes=900&Content-Type=application/json", "bytes=5000&Content-Type=image/png",
    "bytes=5000&Content-Type=text/plain", "bytes=5000&Content-Type=text/event-stream",
])  # fmt: skip
def test_nothing_else_is_compressed(edge: Nginx, query: str) -> None:
    assert "content-encoding" not in get(edge, f"/?{query}").headers


@pytest.mark.parametrize("query", [
    "Content-Type=text/event-stream", "Content-Type=text/plain", "Content-Type=application/json&X-Accel-Buffering=no",
    "Content-Type=text/html&X-Accel-Buffering=no",
])  # fmt: skip
def test_pieces_of_a_stream_go_on_at_once(edge: Nginx, query: str) -> None:
    """The app never sends a second piece, so it arrives now or never."""
    url = "http://{}:{}".format(*edge.address) + f"/stream?{query}"
    with httpx.Client(trust_env=False, timeout=30) as client, client.stream("GET", url) as answer:
        assert next(piece for piece in answer.iter_bytes() if piece) == b"first"
        assert "x-accel-buffering" not in answer.headers


def test_compression_can_be_switched_off() -> None:
    with nginx() as server:
        server.app()
        server.start(GZIP="off")
        assert "content-encoding" not in get(server, "/?bytes=5000&Content-Type=application/json").headers


def entries(server: Nginx, path: str, count: int) -> list[dict[str, Any]]:
    """Return the access log's entries for `path`, once there are `count`."""

    def lines() -> list[str]:
        return [line for line in server.access_log.read_text().splitlines() if f'"{path}"' in line]

    until(lambda: len(lines()) == count, f"{count} requests are logged")
    return [json.loads(line) for line in lines()]


def twice(server: Nginx, path: str, *headers: dict[str, str]) -> str:
    """Request `path` two times, with `headers` in turn; return what the log says of the cache at the second one."""
    for number in range(2):
        get(server, path, **(headers[number % len(headers)] if headers else {}))

    return str(entries(server, path, 2)[1]["cache"])


MARKED = "Cache-Control=max-age%3D60"


def test_what_the_app_marks_is_cached(edge: Nginx) -> None:
    assert twice(edge, f"/a?{MARKED}") == "HIT"


@pytest.mark.parametrize("query", [
    "unmarked=1", "Cache-Control=no-store", "Cache-Control=private,max-age%3D60", f"{MARKED}&Set-Cookie=a",
])  # fmt: skip
def test_nothing_else_is_cached(edge: Nginx, query: str) -> None:
    assert twice(edge, f"/b?{query}") == "MISS"


@pytest.mark.parametrize("header", ["cookie", "authorization"])
def test_personal_requests_pass_the_cache_by(edge: Nginx, header: str) -> None:
    personal = {header: "a=b"}
    assert twice(edge, f"/{header}-1?{MARKED}", personal) == "BYPASS"
    assert twice(edge, f"/{header}-2?{MARKED}", {}, personal) == "BYPASS"
    assert twice(edge, f"/{header}-3?{MARKED}", personal, {}) == "MISS"


def test_a_cookie_with_the_name_of_stickys_is_personal(edge: Nginx) -> None:
    assert twice(edge, f"/own?{MARKED}", {"cookie": "greenstack=a"}) == "BYPASS"


def test_sticky_clients_have_the_cache_too() -> None:
    with nginx() as server:
        server.app()
        server.start(RESPONSE_CACHE="1m", STICKY="cookie")
        bound, other = {"cookie": "greenstack=0123abc"}, {"cookie": "greenstack=0123abc; session=1"}
        assert twice(server, f"/bound?{MARKED}", bound) == "HIT"
        assert twice(server, f"/new?{MARKED}", bound, {}) == "HIT"
        assert twice(server, f"/personal?{MARKED}", other) == "BYPASS"


def test_nobody_waits_for_what_is_not_cached(edge: Nginx) -> None:
    path = "/slow?seconds=2"
    with ThreadPoolExecutor() as pool:
        list(pool.map(lambda _: get(edge, path), range(3)))
    waits = [float(entry["duration"]) - float(entry["upstream_duration"]) for entry in entries(edge, path, 3)]
    assert max(waits) < 1.5, "all are at the app at once; in turn, the second would wait for 2 s"


def test_nothing_is_cached_unless_told() -> None:
    with nginx() as server:
        server.app()
        server.start()
        assert twice(server, f"/a?{MARKED}") == ""


def test_files_are_answered_without_the_app(edge: Nginx) -> None:
    answer = get(edge, "/assets/v1/style.css")
    assert (answer.status_code, answer.headers["content-type"]) == (200, "text/css")
    assert answer.headers["content-encoding"] == "gzip"
    assert answer.headers["etag"]
    assert edge.logged("/assets/v1/style.css")["upstream"] == ""
    missing = get(edge, "/assets/v1/none.css", **{"accept-encoding": "identity"})
    assert (missing.status_code, missing.content) == (404, b'{"detail":"Not Found"}')


def test_folder_leads_to_its_index_on_any_port(edge: Nginx) -> None:
    answer = get(edge, "/assets/v1/manual")
    assert (answer.status_code, answer.headers["location"]) == (301, "/assets/v1/manual/")
    assert get(edge, "/assets/v1/manual/").content == b"manual"


def test_folder_without_index_is_forbidden_in_json(edge: Nginx) -> None:
    answer = get(edge, "/assets/v1/")
    assert (answer.status_code, answer.content) == (403, b'{"detail":"Forbidden"}')


@pytest.mark.skipif(os.getuid() != 0, reason="gives a file away")
def test_link_to_what_is_somebody_elses_is_not_followed(edge: Nginx) -> None:
    link = edge.folder / "files/link"
    assert get(edge, "/assets/v1/link").status_code == 200
    os.chown(link, 65534, 65534, follow_symlinks=False)
    assert get(edge, "/assets/v1/link").status_code == 403


@pytest.mark.parametrize("path", ["/assets/v1/../private", "/assets/v1/%2e%2e/private", "/assets/v1../private"])
def test_nothing_beside_the_files_is_reached(edge: Nginx, path: str) -> None:
    connection = http.client.HTTPConnection(*edge.address, timeout=30)
    connection.request("GET", path)
    answer = connection.getresponse()
    assert answer.status in (400, 404) or b'"target"' in answer.read(), "an error, or the app's affair"
