"""The lean client against a server that answers what it is told to."""

import contextlib
import itertools
import socket
import threading
import time
from collections.abc import Callable, Iterator

import pytest

pytest.importorskip("gevent")  # of requirements/loadtest.txt

from loadtest.generator import client
from loadtest.generator.client import AnswerError, Connection
from loadtest.generator.scenario import Call, Prepared

REQUEST = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


@contextlib.contextmanager
def answering(*answers: bytes | list[bytes], keep: bool = True) -> Iterator[str]:
    """Answer the n-th request with the n-th of `answers`; `keep`: the connection stays.

    A list is sent in pieces, an empty one being a pause.
    """
    server = socket.create_server(("127.0.0.1", 0))
    queue = iter(answers)

    def serve() -> None:
        with contextlib.suppress(OSError, StopIteration):
            while True:
                connection, _ = server.accept()
                with connection:
                    while connection.recv(65536):
                        pieces = next(queue)
                        for piece in [pieces] if isinstance(pieces, bytes) else pieces:
                            connection.sendall(piece)
                            time.sleep(0 if piece else 0.1)  # s, so that what was sent arrives alone
                        if not keep:
                            break

    threading.Thread(target=serve, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"
    finally:
        server.close()


def exchange(*answers: bytes | list[bytes], keep: bool = True, count: int = 1) -> list[bytes]:
    with answering(*answers, keep=keep) as url:
        connection = Connection(url)
        bodies = [connection.exchange(REQUEST, keep_body=True).body for _ in range(count)]
        connection.close()
    return bodies


@pytest.mark.parametrize(
    "answer",
    [
        OK,
        [OK[:20], OK[20:]],
        [bytes([byte]) for byte in OK],
        b"HTTP/1.1 200 OK\r\ncontent-length:2\r\n\r\nok",
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" + OK,
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\no\r\n1;x=y\r\nk\r\n0\r\nTrailer: 1\r\n\r\n",
        [b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r", b"\nok\r\n0\r", b"\n\r\n"],
    ],
    ids=["whole", "two pieces", "bytes", "small letters", "interim", "chunked", "chunked in pieces"],
)
def test_answers_are_read_and_the_connection_is_kept(answer: bytes | list[bytes]) -> None:
    assert exchange(answer, OK, count=2) == [b"ok", b"ok"]


def test_an_answer_may_end_with_its_connection() -> None:
    answers = [b"HTTP/1.1 200 OK\r\n\r\nok", b"HTTP/1.0 200 OK\r\n\r\nok", [b"HTTP/1.1 200 OK\r\n\r\n", b"", b"ok"]]
    assert exchange(*answers, keep=False, count=3) == [b"ok"] * 3


def test_a_closed_connection_is_opened_anew() -> None:
    # Announced, and not.
    closing = OK.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
    assert exchange(closing, OK, keep=False, count=2) == [b"ok", b"ok"]
    assert exchange(OK, OK, OK, keep=False, count=3) == [b"ok"] * 3


def test_a_post_is_not_sent_twice() -> None:
    with answering(OK, OK, keep=False) as url:
        connection = Connection(url)
        connection.exchange(REQUEST, again=False)
        with pytest.raises(AnswerError):
            connection.exchange(REQUEST, again=False)


@pytest.mark.parametrize(
    ("answer", "word"),
    [
        (b"SSH-2.0-OpenSSH\r\n\r\n", "no HTTP status"),
        (b"HTTP/1.1 2x0 OK\r\n\r\n", "no HTTP status"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n", "Content-Length"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nok", "within the answer"),
        (b"HTTP/1.1 200 OK\r\nX: " + 70_000 * b"x", "does not end"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-1\r\n", "size of a chunk"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nokk\r\n", "longer than its size"),
        (b"", "closed"),
    ],
)
def test_hostile_answers_end_the_request_only(answer: bytes, word: str) -> None:
    with answering(answer, OK, keep=False) as url:
        connection = Connection(url)
        with pytest.raises(AnswerError, match=word):
            connection.exchange(REQUEST)
        assert connection.exchange(REQUEST, keep_body=True).body == b"ok"


def test_a_kept_body_has_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "BODY_MAX", 100_000)
    endless = itertools.repeat(b"x" * 10_000, 100)
    with pytest.raises(AnswerError, match="in one answer"):
        exchange([b"HTTP/1.1 200 OK\r\n\r\n", *endless], keep=False)


def test_nobody_listening_is_an_answer_error() -> None:
    with pytest.raises(AnswerError, match="no connection"):
        Connection("http://127.0.0.1:1").exchange(REQUEST)
    with pytest.raises(AnswerError, match="no connection"):
        Connection("http://no-such-host.invalid").exchange(REQUEST)


def test_a_body_is_sent_with_its_length() -> None:
    request = Prepared(Call("/orders", method="POST", json={"a": 1}, headers={"X-A": "b"}), "http://h:1")
    assert request.before.startswith(b"POST /orders HTTP/1.1\r\nHost: h:1\r\n")
    assert b"Content-Type: application/json\r\nContent-Length: 8\r\nX-A: b\r\n" in request.before
    assert request.after == b'\r\n{"a": 1}'
    assert not request.again


@pytest.mark.parametrize("path", ["/a b", "/ä", "/a\r\nX: y", "a"])
def test_a_path_that_is_none_is_refused(path: str) -> None:
    with pytest.raises(ValueError, match="must begin with / and be ASCII"):
        Prepared(Call(path), "http://h")


def test_a_header_of_two_lines_is_refused() -> None:
    with pytest.raises(ValueError, match="must be one line"):
        Prepared(Call("/", headers={"A": "b\r\nC: d"}), "http://h")


def _fault(call: Call, status: int, body: bytes = b"", *, whole: bool = True) -> str | None:
    return call.fault(client.Answer(status, b"", body), whole=whole)


def _explodes(_: client.Answer) -> bool:
    raise KeyError("x")


@pytest.mark.parametrize(
    ("call", "status", "body", "fault"),
    [
        (Call("/"), 200, b"", None),
        (Call("/"), 302, b"", "status 302"),
        (Call("/", status=(201, 409)), 409, b"", None),
        (Call("/", status=201), 200, b"", "status 200"),
        (Call("/", answer={"a": 1}), 200, b'{"a": 1}', None),
        (Call("/", answer={"a": 1}), 200, b'{"a": 2}', "wrong body"),
        (Call("/", answer={"a": 1}), 200, b"<html>", "wrong body (JSONDecodeError)"),
        (Call("/", check=lambda answer: b"yes" in answer.body), 200, b"oh yes", None),
        (Call("/", check=lambda answer: b"yes" in answer.body), 200, b"no", "wrong body"),
        (Call("/", check=_explodes), 200, b"", "wrong body (KeyError)"),
    ],
)
def test_answers_are_judged(call: Call, status: int, body: bytes, fault: str | None) -> None:
    assert _fault(call, status, body) == fault


def test_a_body_that_was_not_kept_is_not_judged() -> None:
    judge: Callable[..., str | None] = _fault
    assert judge(Call("/", answer={"a": 1}), 200, whole=False) is None
