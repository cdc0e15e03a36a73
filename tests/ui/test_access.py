"""Who may use the page: the token, the Host and the Origin of requests, and the headers of responses."""

import re

import httpx
import pytest

from tests.ui.conftest import TOKEN, Session
from trm.ui.app import FILES


def check_refused(response: httpx.Response, status: int, words: str) -> None:
    """One line of JSON, with the headers of all responses."""
    assert response.status_code == status
    assert list(response.json()) == ["error"]
    assert words in response.json()["error"]
    assert response.headers["x-content-type-options"] == "nosniff"
    assert "'unsafe" not in response.headers["content-security-policy"]


def test_every_route_but_the_files_of_the_page_needs_the_token(session: Session) -> None:
    routes = session.client.get("/openapi.json").json()["paths"]
    assert {"/ui/models", "/ui/trace", "/v1/solve", "/v2/models/{name}/infer", "/metrics"} <= set(routes)
    requests = [(method.upper(), path) for path, methods in routes.items() for method in methods]
    requests += [("GET", path) for path in ("/docs", "/openapi.json", "/nothing", "/ui/", "/index.html")]
    requests += [("POST", path) for path in FILES]
    for method, path in requests:
        check_refused(httpx.request(method, session.url + path), 401, "token of the session")


@pytest.mark.parametrize("value", [TOKEN, "Bearer", f"bearer {TOKEN}", f"Bearer {TOKEN}x", "Bearer \xe9"])
def test_other_tokens(session: Session, value: str) -> None:
    headers = httpx.Headers({b"authorization": value.encode("latin-1")})
    check_refused(httpx.get(f"{session.url}/ui/models", headers=headers), 401, "token of the session")


def test_tokens_in_the_address_are_not_accepted(session: Session) -> None:
    response = httpx.get(f"{session.url}/ui/models", params={"token": TOKEN})
    check_refused(response, 401, "token of the session")


@pytest.mark.parametrize(
    "host",
    ["attacker.example", "127.0.0.1.attacker.example:80", "localhost.", "127.0.0.1:80@attacker.example", "", "x"],
)
@pytest.mark.parametrize("path", ["/", "/ui/models"])
def test_names_of_other_hosts_are_refused(session: Session, host: str, path: str) -> None:
    """A name of an attacker that resolves to this machine, also with the token."""
    check_refused(session.client.get(path, headers={"host": host}), 403, "Host")


@pytest.mark.parametrize("host", ["localhost:9999", "127.0.0.1", "[::1]:80"])
def test_names_of_this_machine(session: Session, host: str) -> None:
    headers = {"host": host, "origin": f"http://{host}"}
    assert session.client.get("/ui/models", headers=headers).status_code == 200


@pytest.mark.parametrize("origin", ["http://attacker.example", "null", "https://127.0.0.1", "http://127.0.0.1:1"])
def test_other_pages_are_refused(session: Session, origin: str) -> None:
    check_refused(session.client.get("/ui/models", headers={"origin": origin}), 403, "Origin")


def test_the_files_of_the_page(session: Session) -> None:
    """They need no token, and neither contain inline code nor name another server."""
    for path in FILES:
        response = httpx.get(session.url + path)
        assert response.status_code == 200
        assert "no-store" in response.headers["cache-control"]
        assert response.headers["referrer-policy"] == "no-referrer"
        assert not re.search(
            r"(https?:)?//[a-z]|@import|javascript:|\son[a-z]+=|<style|style=|eval\(", response.text
        ), path
        assert len(re.findall("<script", response.text)) == (path == "/")
    assert FILES["/"][1] == "text/html"
    policy = httpx.get(session.url).headers["content-security-policy"]
    assert {"default-src 'none'", "script-src 'self'", "frame-ancestors 'none'"} <= set(policy.split("; "))
