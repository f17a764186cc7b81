"""What the SDK raises, in words with a remedy: nothing of the SDK's own leaves lockstep/azureml.

The SDK has no error codes to rely on: one failure comes as five classes, with JSON in its text. So an
error is told by what can be relied on: the HTTP status, the service's own code, the class.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterator
from typing import Any

from lockstep.errors import LockstepError, WorkspaceError

SIGN_IN = (
    "Sign in with `az login`, or set AZUREML_SERVICE_PRINCIPAL_TENANT_ID, _ID and _PASSWORD; "
    "`--tenant` chooses one of several tenants."
)
UNREACHABLE = (
    "Check the network, a proxy (HTTPS_PROXY) and a company's certificates (REQUESTS_CA_BUNDLE), then run "
    "the command again. For the embedded workspace: `./invoke workspace`."
)
PERMISSION = (
    "Ask for the role `AzureML Data Scientist` on the workspace, and for a push `AcrPush` on its registry; "
    "`az account show` says who you are signed in as."
)
QUOTA = (
    "Wait for other runs to end, choose another compute target (`azure.compute` in invoke.yaml), or ask for "
    "more quota in the studio under Quota."
)
COMPUTE = "Choose one with `azure.compute` in invoke.yaml, or make it: studio, Compute, Compute clusters."
NOT_FOUND = (
    "Check workspace, subscription and resource group (.azureml/config.json, or `azure:` in invoke.yaml), "
    "and the tenant (`--tenant`)."
)
BUSY = "The service is failing or busy: run the command again in a few minutes."
GENERAL = "docs/azure.md says what `submit` needs of a workspace; `./invoke doctor` looks at this machine."

_ROOTS = (
    "azureml",
    "azure",
    "msrest",
    "msrestazure",
    "msal",
    "adal",
    "knack",
    "requests",
    "urllib",
    "urllib3",
    "jwt",
)
_BARE = (Exception, ValueError, RuntimeError, KeyError)
"""The SDK raises these too, for refused requests and answers that it can't read."""


@contextlib.contextmanager
def azureml_errors(doing: str) -> Iterator[None]:
    """Turn what the SDK raises while `doing` something into a WorkspaceError; other errors pass."""
    try:
        yield
    except LockstepError:
        raise
    except (Exception, SystemExit) as error:
        if not is_of_sdk(error):
            raise
        raise in_words(error, doing) from error


def is_of_sdk(error: BaseException) -> bool:
    """Tell whether the SDK, or a library under it, made this error."""
    root = type(error).__module__.partition(".")[0]
    return (
        root in _ROOTS
        or type(error) in _BARE
        or isinstance(error, ConnectionError | TimeoutError | SystemExit)
    )


def in_words(error: BaseException, doing: str) -> WorkspaceError:
    """Return a WorkspaceError that says what went wrong while `doing`, and what mends it."""
    status, code, text = status_of(error), "", message_of(error)
    told = _service_words(text)
    if told:
        code, text, status = told[0], told[1], status or told[2]
    what, remedy = _judge(error, status, code, text)
    shown = text if len(text) <= 600 else f"{text[:600]} …"
    return WorkspaceError(f"{doing[:1].upper()}{doing[1:]} failed: {what}\n{shown}".rstrip(), remedy)


def _judge(error: BaseException, status: int | None, code: str, text: str) -> tuple[str, str]:
    """Return what went wrong in a sentence, and the remedy."""
    names = {kind.__name__ for each in chain(error) for kind in type(each).__mro__}
    low = f"{code} {text}".lower()
    if (
        names & {"AuthenticationException", "ClientAuthenticationError", "AuthenticationError", "AdalError"}
        or status == 401
    ):
        return "you aren't signed in, or not to the right tenant.", SIGN_IN
    if "az login" in low or ("interactive" in low and "authentication" in low) or "aadsts" in low:
        return "you aren't signed in, or not to the right tenant.", SIGN_IN
    if "access to" in low and "subscription" in low:
        return "the subscription isn't one that you have in this tenant.", NOT_FOUND
    if status == 403 or "authorizationfailed" in low or "not authorized" in low:
        return "your account may not do that.", PERMISSION
    if status == 429 or "quota" in low:
        return "a quota or a rate limit is used up.", QUOTA
    if _is_about_compute(names, low):
        return "the workspace has no such compute target.", COMPUTE
    if "SnapshotException" in names:
        return (
            "the source couldn't be uploaded.",
            "Keep data out of the source folder and list it in src/.amlignore.",
        )
    if names & {"SSLError", "SSLCertVerificationError"}:
        return "the service's certificate isn't trusted here.", UNREACHABLE
    if names & _NETWORK or status == 408:
        return "the service can't be reached.", UNREACHABLE
    if status is not None and status >= 500:
        return f"the service answered {status}.", BUSY
    if status == 404 or "workspace not found" in low or names & {"DiscoveryUrlNotFoundException"}:
        return "it isn't there.", NOT_FOUND
    return "the service or its SDK refused it.", GENERAL


_NETWORK = {
    "ConnectionError", "ConnectTimeout", "ReadTimeout", "Timeout", "MaxRetryError", "NewConnectionError",
    "ProtocolError", "ServiceRequestError", "ServiceResponseError", "ClientRequestError", "TimeoutError",
    "ProxyError", "URLError",
}  # fmt: skip


def _is_about_compute(names: set[str], low: str) -> bool:
    if names & {"ComputeTargetException", "ComputeTargetNotFound"}:
        return True
    return "compute" in low and any(
        word in low for word in ("not found", "notfound", "not in this workspace", "doesn't exist")
    )


def chain(error: BaseException) -> Iterator[BaseException]:
    """Yield the error and those that it came from, each once, also the ones that the SDK packs into it."""
    todo, seen = [error], set()
    while todo:
        one = todo.pop(0)
        if id(one) in seen:
            continue
        seen.add(id(one))
        yield one
        packed = (
            one.__cause__,
            one.__context__,
            *(getattr(one, name, None) for name in ("_inner_exception", "inner_exception")),
        )
        todo += [each for each in packed if isinstance(each, BaseException)]


def status_of(error: BaseException) -> int | None:
    """Return the HTTP status that an error carries, if any."""
    for one in chain(error):
        for holder in (one, getattr(one, "response", None), getattr(one, "error", None)):
            status = getattr(holder, "status_code", None)
            if isinstance(status, int) and status >= 400:
                return status
    found = re.search(r'(?:"status_code"|Code|status code)\W{1,3}([45]\d\d)\b', message_of(error))
    return int(found[1]) if found else None


def message_of(error: BaseException) -> str:
    """Return an error's own message; the SDK's `str()` may add pages to it, or raise."""
    for name in ("message", "_exception_message"):
        text = getattr(error, name, None)
        if isinstance(text, str) and text.strip():
            return text.strip()
    try:
        return str(error).strip()
    except Exception:  # printing a service error without details raises TypeError in the SDK
        return type(error).__name__


def _service_words(text: str) -> tuple[str, str, int | None] | None:
    """Return code, message and status of the JSON that the service answered, found in an error's text."""
    start = text.find("{")
    if start < 0:
        return None
    try:
        found, _ = json.JSONDecoder().raw_decode(text[start:])
    except ValueError:
        return None
    status = found.get("status_code") if isinstance(found, dict) else None
    inner = _innermost(found)
    return (str(inner.get("code", "")), str(inner["message"]), status) if inner else None


def _innermost(value: Any) -> dict[str, Any] | None:
    """Return the deepest `{"code", "message"}` of an answer: Azure nests the cause."""
    if not isinstance(value, dict):
        return None
    for name in ("error", "error_details", "innerError", "inner_error"):
        if found := _innermost(value.get(name)):
            return found
    return value if isinstance(value.get("message"), str) and value["message"] else None
