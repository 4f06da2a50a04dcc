"""The application: the two routes of the contract."""

import asyncio
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.main import app


def get(path: str, **options: Any) -> httpx.Response:
    async def request() -> httpx.Response:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
            return await client.get(path, **options)

    return asyncio.run(request())


def answer(path: str) -> tuple[int, Any]:
    response = get(path)
    assert response.headers["content-type"] == "application/json"
    return response.status_code, response.json()


def test_root() -> None:
    assert answer("/") == (200, {"Hello": "World"})


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/items/42?q=foo", {"item_id": 42, "q": "foo"}),
        ("/items/42", {"item_id": 42, "q": None}),
        ("/items/-1?q=", {"item_id": -1, "q": ""}),
        ("/items/0?q=%C3%BC%20x", {"item_id": 0, "q": "ü x"}),
    ],
)
def test_items(path: str, body: object) -> None:
    assert answer(path) == (200, body)


@given(item=st.integers(), q=st.none() | st.text(st.characters(exclude_categories=["Cs"])))
def test_any_item(item: int, q: str | None) -> None:
    response = get(f"/items/{item}", params={} if q is None else {"q": q})
    if len(str(item)) < 4000:
        assert response.json() == {"item_id": item, "q": q}


@pytest.mark.parametrize("item", ["x", "1.5", "1e3", "0x1"])
def test_an_item_that_is_no_number(item: str) -> None:
    status, body = answer(f"/items/{item}")
    assert status == 422
    (detail,) = body["detail"]
    assert (detail["type"], detail["loc"], detail["input"]) == ("int_parsing", ["path", "item_id"], item)


@pytest.mark.parametrize(("path", "status"), [("/nothing", 404), ("/items", 404), ("/metrics", 404)])
def test_what_is_not_there(path: str, status: int) -> None:
    assert get(path).status_code == status


def test_routes_are_coroutines_with_types() -> None:
    """`async def`: no thread hop a request."""
    documented = set(app.openapi()["paths"])
    assert documented == {"/", "/items/{item_id}"}
    for path in documented:
        schema = app.openapi()["paths"][path]["get"]["responses"]["200"]["content"]["application/json"]["schema"]
        assert schema
