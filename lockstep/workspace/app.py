"""The workspace as an ASGI application: every route, who may call it, and what a refusal looks like."""

from __future__ import annotations

import logging
import re
import time
from typing import Any

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Match

from lockstep.workspace.call import HOLDER
from lockstep.workspace.fault import Fault, error_body, fault_of
from lockstep.workspace.rights import check
from lockstep.workspace.routes import ALL
from lockstep.workspace.site import Site

log = logging.getLogger("lockstep.workspace")
SECRET_SEGMENT = re.compile(r"/(MSI|discovery|studio)/[^/]+")


class Application:
    """The ASGI application that serves one Site: the door (host, token), the routes, the log."""

    def __init__(self, site: Site) -> None:
        self.site = site
        self._public = frozenset(endpoint for routes in ALL for endpoint in routes.public)
        self._routes = Starlette(
            routes=[route for routes in ALL for route in routes.table],
            exception_handlers={Fault: _refuse, HTTPException: _unknown, Exception: _broken},
        )
        self._routes.state.site = site
        self._routes.state.check = check
        self._routes.router.redirect_slashes = False

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self._routes(scope, receive, send)
            return
        scope = {**scope, "path": "/" + scope["path"].lstrip("/")}  # the SDK doubles the first slash of some
        request = Request(scope)
        started = time.monotonic()
        status = 0

        async def remember(message: Any) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            answer = await self._door(request) or self._routes
            await answer(scope, receive, remember)
        except ClientDisconnect:
            log.info("%s %s: the client went away", request.method, shown(request))
        except Exception:  # `_broken` has answered: it is here to be logged
            log.exception("%s %s failed", request.method, shown(request))
        finally:
            took = (time.monotonic() - started) * 1000
            log.info("%s %s %s %.0f ms", request.method, shown(request), status, took)

    async def _door(self, request: Request) -> Response | None:
        """Return the refusal for a request that names no host of ours or shows no token; None lets it in."""
        if request.headers.get("host", "") not in self.site.hosts:
            return _json(400, "The Host header names no address of this workspace.", "BadHost")
        for route in self._routes.routes:
            match, found = route.matches(request.scope)
            if match is Match.FULL:
                if found.get("endpoint") in self._public:
                    return None
                break
        holder = self.site.identity.holder(request.headers.get("authorization", ""))
        if holder is None:
            return _json(401, "The request needs this workspace's bearer token.", "AuthenticationFailed")
        if holder and not await run_in_threadpool(self.site.runs.goes, holder):
            return _json(401, f"The run {holder!r} has ended, and its token with it.", "AuthenticationFailed")
        request.scope[HOLDER] = holder
        return None


async def _refuse(request: Request, error: Exception) -> Response:
    assert isinstance(error, Fault)
    log.info("%s %s refused: %s", request.method, shown(request), error.message)
    return _json(error.status, error.message, error.code)


async def _unknown(request: Request, error: Exception) -> Response:
    """Name a route that isn't written (404), so that a gap is seen at once."""
    assert isinstance(error, HTTPException)
    path = shown(request)
    log.warning("NOT WRITTEN: %s %s", request.method, path)
    message = f"The embedded workspace doesn't speak {request.method} {path} (see docs/workspace.md)."
    return _json(404, message, "NotImplementedByLockstep")


async def _broken(request: Request, error: Exception) -> Response:
    """Say that the server failed; as a 400, because the SDK would repeat a 500 for minutes."""
    fault = fault_of(error)
    return _json(fault.status, fault.message, fault.code)


def _json(status: int, message: str, code: str) -> Response:
    return JSONResponse(error_body(message, code), status)


def shown(request: Request) -> str:
    """Return the request's path as it may be logged: on one line, no query, no secrets."""
    path = SECRET_SEGMENT.sub(r"/\1/…", request.scope["path"])
    path = "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in path)
    return re.sub(r"/subscriptions/[^/]+/resourceGroups/[^/]+/providers/[^/]+/workspaces", "…", path)
