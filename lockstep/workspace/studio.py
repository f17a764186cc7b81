"""The studio: MLflow's pages for a browser, on loopback, for whoever came through the portal URL.

A browser has no bearer token and doesn't know our certificate authority, so this is plain HTTP on an
address of its own: the portal URL holds a secret, which is exchanged for a cookie. Other users of the machine
have neither.
"""

from __future__ import annotations

import hmac
import html
import logging
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, RedirectResponse, Response, StreamingResponse

from lockstep.workspace.fault import Fault
from lockstep.workspace.mlflow_artifacts import answer as artifacts
from lockstep.workspace.site import Site

if TYPE_CHECKING:
    import httpx

log = logging.getLogger("lockstep.workspace")
PASSED_ON = ("accept", "content-type", "content-length", "range", "if-none-match", "accept-language")
PASSED_BACK = (
    "content-type",
    "content-disposition",
    "etag",
    "last-modified",
    "content-range",
    "location",
    "content-encoding",
    "cache-control",
)


class Studio:
    """The ASGI application of the pages."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self._secret = site.identity.secret("studio")
        self._cookie = f"lockstep-studio-{site.identity.workspace[:8]}"
        self._client: httpx.AsyncClient | None = None

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        request = Request(scope, receive)
        try:
            response = await self._answer(request)
        except Fault as fault:
            response = _page(fault.message, status=fault.status)
        except ClientDisconnect:
            return
        response.headers["X-Frame-Options"] = "SAMEORIGIN"
        await response(scope, receive, send)

    async def _answer(self, request: Request) -> Response:
        host = request.headers.get("host", "").partition(":")[0]
        if host not in ("127.0.0.1", "localhost"):
            raise Fault(400, "This address serves pages to this machine only.")
        _check_origin(request)
        parts = request.url.path.strip("/").split("/")
        if parts[0] == "studio":
            return self._enter(parts[1:])
        if not hmac.compare_digest(request.cookies.get(self._cookie, "").encode(), self._secret.encode()):
            raise Fault(401, "Open the portal URL that a run prints, or `./invoke ui`: it lets you in.")
        if parts[0] == "runs" and len(parts) == 2:  # the portal URL that a job knows, which holds no secret
            return RedirectResponse(self._page_of(parts[1]), 303)
        if not self._site.mlflow.is_installed:
            raise Fault(404, "MLflow isn't installed for this workspace: `./invoke workspace` installs it.")
        if not self._site.mlflow.is_ready:
            return _page("MLflow is starting.", again=True, status=503)
        return await artifacts(request, self._site) or await self._pass_on(request)

    def _enter(self, parts: list[str]) -> Response:
        """Exchange the secret of a portal URL (`/studio/<secret>/runs/<id>`) for the cookie; open the run's page."""
        if not parts or not hmac.compare_digest(parts[0].encode(), self._secret.encode()):
            raise Fault(401, "This portal URL isn't this workspace's; after a reset it is a new one.")
        page = "/#/experiments"
        if len(parts) >= 3 and parts[1] == "runs":
            page = self._page_of(parts[2])
        response = RedirectResponse(page, 303)
        response.set_cookie(self._cookie, self._secret, httponly=True, samesite="lax")
        response.headers["Referrer-Policy"] = "no-referrer"
        return response

    def _page_of(self, run_id: str) -> str:
        run = self._site.runs.get(run_id)
        return f"/#/experiments/{run['experiment']}/runs/{run['id']}/model-metrics"

    async def _pass_on(self, request: Request) -> Response:
        import httpx  # takes a third of a second: not before the first answer

        if self._client is None:
            transport = httpx.AsyncHTTPTransport(uds=str(self._site.mlflow.socket))
            self._client = httpx.AsyncClient(transport=transport, base_url="http://localhost", timeout=60)
        headers = {name: value for name, value in request.headers.items() if name in PASSED_ON}
        path = request.url.path + (f"?{request.url.query}" if request.url.query else "")
        body = request.stream() if request.method not in ("GET", "HEAD") else None
        sent = self._client.build_request(request.method, path, headers=headers, content=body)
        try:
            answer = await self._client.send(sent, stream=True)
        except httpx.HTTPError as error:
            log.warning("MLflow's page could not be fetched: %s", type(error).__name__)
            return _page("MLflow doesn't answer just now.", again=True, status=503)

        async def pieces() -> AsyncIterator[bytes]:
            try:
                async for piece in answer.aiter_raw():
                    yield piece
            finally:
                await answer.aclose()

        kept = {name: value for name, value in answer.headers.items() if name in PASSED_BACK}
        return StreamingResponse(pieces(), answer.status_code, kept)


def _check_origin(request: Request) -> None:
    """Refuse (403) what a page of another origin wants to change.

    To a browser all ports of this machine are one site: it sends our cookie along with what their pages ask
    (SameSite leaves the port out, RFC 6265bis 5.2).
    """
    own = (None, f"http://{request.headers.get('host', '')}")
    if request.method not in ("GET", "HEAD") and request.headers.get("origin") not in own:
        raise Fault(403, "The request comes from another page than the studio's, so it changes nothing here.")


def _page(sentence: str, *, again: bool = False, status: int = 200) -> Response:
    """Return a page of ours. A refusal quotes what was asked for, which may be anybody's: it is text here."""
    refresh = '<meta http-equiv="refresh" content="1">' if again else ""
    body = f"<!doctype html><title>Lockstep</title>{refresh}<p>{html.escape(sentence)}</p>"
    return HTMLResponse(body, status, {"Content-Security-Policy": "default-src 'none'"})
