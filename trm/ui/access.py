"""Who may use the page: programs of this machine that have the token of the session."""

import hmac
import re
from collections.abc import Collection

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from trm.serving.app import error_response

_HOST = re.compile(r"(127\.0\.0\.1|localhost|\[::1\])(:\d{1,5})?", re.ASCII)
HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "cache-control": "no-store",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
}
"""Headers of every response: no inline code, no request to another server, no frame of another page."""


class AccessGuard:
    """Refuses requests with a foreign Host or Origin (403) and those without the token (401), in one line of JSON.

    The token is a bearer token: browsers do not send it by themselves, so pages of other servers cannot use it.

    Args:
        token: The token of the session.
        public: Paths that need no token, because they have no data: the files of the page.
    """

    def __init__(self, app: ASGIApp, token: str, public: Collection[str]) -> None:
        self._app, self._expected, self._public = app, f"Bearer {token}".encode(), frozenset(public)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle a request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(HEADERS)
            await send(message)

        problem = self._problem(scope)
        app = self._app if problem is None else error_response(*problem)
        await app(scope, receive, with_headers)

    def _problem(self, scope: Scope) -> tuple[int, str] | None:
        """Status and reason of a refusal."""
        headers = Headers(scope=scope)
        host = headers.get("host", "")
        if not _HOST.fullmatch(host):
            return 403, "the Host of the request is not this machine"
        if any(origin != f"http://{host}" for origin in headers.getlist("origin")):
            return 403, "the Origin of the request is another page"
        if scope["method"] == "GET" and scope["path"] in self._public:
            return None
        if not hmac.compare_digest(headers.get("authorization", "").encode(), self._expected):
            return 401, "the token of the session is missing or wrong; open the address that `trm ui` printed"
        return None
