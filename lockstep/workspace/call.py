"""Call: one request to the workspace, decoded, and how a plain function becomes its route.

What a run's token is good for is decided here, between the decoding and the function: see rights.py.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from lockstep.workspace.body import parsed
from lockstep.workspace.fault import Fault
from lockstep.workspace.identity import NAME, RESOURCE_GROUP, SUBSCRIPTION
from lockstep.workspace.names import check_path, checked
from lockstep.workspace.shapes import fitting

if TYPE_CHECKING:
    from lockstep.workspace.site import Site

WS = (
    "/subscriptions/{subscription}/resourceGroups/{group}"
    "/providers/Microsoft.MachineLearningServices/workspaces/{workspace}"
)
JSON_LIMIT = 64 * 1024 * 1024
SMALL = 64 * 1024
"""A larger body is parsed in a thread, so that nobody else waits."""
HOLDER = "lockstep.holder"
"""Where the door notes in the request's scope whose token it shows."""


@dataclass(frozen=True)
class Call:
    """One request: where it was sent, what its path, query and JSON body say."""

    site: Site
    request: Request
    path: Mapping[str, str]
    query: Mapping[str, str]
    body: Any

    @property
    def base(self) -> str:
        """`https://host:port` as this client knows us: a job's name for us isn't the SDK's."""
        return f"https://{self.request.headers['host']}"

    @property
    def run(self) -> str:
        """The run whose token the request shows; "" for the workspace's owner."""
        return str(self.request.scope.get(HOLDER, ""))

    def signed(self, resource: str) -> str:
        """Return the query of a signed URL of `resource` for whoever asks; a run's ends with the run."""
        return self.site.identity.signed(resource, self.run)

    def fields(self, shape: Any = dict) -> Any:
        """Return the body as it was sent if it has the shape (see shapes.py), or refuse it with 400."""
        return fitting(shape, self.body)

    def number(self, name: str) -> int:
        """Return a whole number of the query, 0 where there is none."""
        return whole(self.query.get(name))

    def named(self, kind: str, name: str) -> str | None:
        """Return a name of the query, None where there is none; refuse (400) one that its kind can't have."""
        value = self.query.get(name)
        return checked(kind, value) if value else None


Handler = Callable[[Call], Any]


class Routes:
    """A table of routes; `{WS}` in a path stands for this workspace, and another one's name is a 404.

    `public` routes need no bearer token: they show nothing, or check a secret in their path or query.
    """

    def __init__(self) -> None:
        self.table: list[Route] = []
        self.public: set[Callable[..., Any]] = set()

    def on(self, methods: str, *paths: str, public: bool = False) -> Callable[[Handler], Handler]:
        """Register a plain function of a Call, run in a thread. It returns JSON, a Response, or None (empty 200)."""

        def register(handler: Handler) -> Handler:
            async def endpoint(request: Request) -> Response:
                at_the_door(request)
                body = await json_body(request)
                call = Call(request.app.state.site, request, request.path_params, request.query_params, body)

                def answered() -> Any:
                    request.app.state.check(handler, call)
                    return handler(call)

                answer = await run_in_threadpool(answered)
                if isinstance(answer, Response):
                    return answer
                return Response() if answer is None else json_response(answer)

            endpoint.__name__ = handler.__name__
            self._add(methods, paths, endpoint, public)
            return handler

        return register

    def stream(self, methods: str, *paths: str, public: bool = False) -> Callable[[Any], Any]:
        """Register an async function of a Request that reads the body itself, piece by piece."""

        def register(handler: Any) -> Any:
            async def endpoint(request: Request) -> Response:
                at_the_door(request)
                answer: Response = await handler(request)
                return answer

            self._add(methods, paths, endpoint, public)
            return handler

        return register

    def _add(self, methods: str, paths: tuple[str, ...], endpoint: Any, public: bool) -> None:
        for path in paths:
            self.table.append(Route(path.replace("{WS}", WS), endpoint, methods=methods.split("|")))
        if public:
            self.public.add(endpoint)


def json_response(value: Any, status: int = 200) -> Response:
    """Return JSON as Python's clients read it: a loss may be NaN."""
    return Response(json.dumps(value), status, media_type="application/json")


def whole(value: Any) -> int:
    """Return the whole number that a page's size or place is, 0 for what is none."""
    text = "" if isinstance(value, bool) else str(value or "")
    return int(text) if text.isascii() and text.isdigit() and len(text) < 19 else 0


def at_the_door(request: Request) -> None:
    """Refuse a path with a name that its kind can't have (400), or of another workspace than this one (404)."""
    parameters = request.path_params
    check_path(parameters, makes=request.method == "PUT")
    named = [
        parameters.get(key, own).lower()
        for key, own in (("subscription", SUBSCRIPTION), ("group", RESOURCE_GROUP))
    ]
    workspace = parameters.get("workspace", NAME)
    if named != [SUBSCRIPTION.lower(), RESOURCE_GROUP.lower()] or workspace.lower() != NAME:
        raise Fault(
            404, f"The workspace {workspace!r} is not here; this one is {NAME!r}.", "ResourceNotFound"
        )


async def json_body(request: Request) -> Any:
    """Read the body as JSON, at most `JSON_LIMIT` bytes; None where there is none, the text where it is a form."""
    if request.method in ("GET", "HEAD"):
        return None
    data = bytearray()
    announced = request.headers.get("content-length", "0")
    if announced.isdigit() and int(announced) > JSON_LIMIT:
        raise too_large()
    async for piece in request.stream():
        data += piece
        if len(data) > JSON_LIMIT:
            raise too_large()
    if not data:
        return None
    if request.headers.get("content-type", "").startswith("application/x-www-form-urlencoded"):
        return data.decode("utf-8", "replace")
    return parsed(data) if len(data) <= SMALL else await run_in_threadpool(parsed, data)


def too_large() -> Fault:
    """Return the refusal of a body that doesn't fit in memory politely."""
    return Fault(413, f"The request's body is larger than {JSON_LIMIT >> 20} MB.", "RequestTooLarge")
