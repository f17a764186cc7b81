"""Every error of the SDK ends in words with a remedy. The SDK's own classes are used, none is made up."""

from __future__ import annotations

import importlib
import inspect
import json
import warnings
from collections.abc import Iterator
from typing import Any

import pytest

from lockstep.azureml import failures
from lockstep.azureml.failures import azureml_errors
from lockstep.errors import SettingsError, WorkspaceError


def of_sdk(path: str) -> Any:
    """Return a class of the SDK or a library under it; imported here, because that takes seconds."""
    module, _, name = path.rpartition(".")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the SDK's dependencies warn about each other when they are imported
        return getattr(importlib.import_module(module), name)


def told(error: BaseException) -> WorkspaceError:
    """Return what becomes of an error of the SDK."""
    with pytest.raises(WorkspaceError) as caught, azureml_errors("submitting the run"):
        raise error
    assert str(caught.value).startswith("Submitting the run failed: ")
    assert caught.value.remedy
    return caught.value


def service_text(status: int, code: str, message: str) -> str:
    """Return the text that the SDK makes of an answer."""
    inner = {"code": code, "message": message}
    details = {"error": {"code": "UserError", "message": "outer", "innerError": inner}}
    return json.dumps({"url": "https://x", "status_code": status, "error_details": details}, indent=4)


def every_exception() -> Iterator[BaseException]:
    """Yield one of each exception that azureml.exceptions offers; a later SDK's new one is tried as well."""
    module = importlib.import_module("azureml.exceptions")
    for name in module.__all__:
        kind = of_sdk(f"azureml.exceptions.{name}")
        if inspect.isclass(kind) and issubclass(kind, BaseException) and name != "ServiceException":
            parameters = list(inspect.signature(kind.__init__).parameters.values())[1:]
            needed = [
                one
                for one in parameters
                if one.default is one.empty and one.kind is one.POSITIONAL_OR_KEYWORD
            ]
            yield kind(*(f"the {one.name}" for one in needed))


def test_every_class_is_mapped() -> None:
    """Whatever azureml raises becomes a WorkspaceError with a remedy, and never a page of JSON."""
    seen = 0
    for error in every_exception():
        seen += 1
        text = str(told(error))
        assert "ErrorResponse" not in text
        assert "InnerException" not in text
    assert seen > 15


EXECUTION = "azureml.exceptions.ExperimentExecutionException"
NO_COMPUTE = service_text(404, "ComputeNotFound", "The compute target 'x' is not in this workspace")
CASES = [
    ("azureml.exceptions.AuthenticationException", "Please run 'az login'", failures.SIGN_IN),
    ("azure.core.exceptions.ClientAuthenticationError", "AADSTS700016: not found", failures.SIGN_IN),
    ("builtins.Exception", "Error retrieving the environment. Code: 401\n: ", failures.SIGN_IN),
    ("azureml.exceptions.ProjectSystemException", service_text(403, "Forbidden", "no"), failures.PERMISSION),
    ("azureml.exceptions.WorkspaceException", "AuthorizationFailed: no", failures.PERMISSION),
    (EXECUTION, service_text(400, "QuotaExceeded", "cores"), failures.QUOTA),
    (EXECUTION, service_text(429, "TooMany", "wait"), failures.QUOTA),
    ("azureml.exceptions.ComputeTargetException", "ComputeTargetNotFound: gpu", failures.COMPUTE),
    (EXECUTION, NO_COMPUTE, failures.COMPUTE),
    ("azureml.exceptions.ProjectSystemException", "Workspace not found.", failures.NOT_FOUND),
    ("requests.exceptions.ConnectionError", "refused", failures.UNREACHABLE),
    ("requests.exceptions.ReadTimeout", "slow", failures.UNREACHABLE),
    ("requests.exceptions.SSLError", "self-signed", failures.UNREACHABLE),
    ("msrest.exceptions.ClientRequestError", "refused", failures.UNREACHABLE),
    ("azure.core.exceptions.ServiceRequestError", "no route", failures.UNREACHABLE),
    ("builtins.TimeoutError", "slow", failures.UNREACHABLE),
    ("urllib.error.URLError", "refused", failures.UNREACHABLE),
    (EXECUTION, service_text(503, "Busy", "later"), failures.BUSY),
    ("azureml.exceptions.UserErrorException", "odd", failures.GENERAL),
]


@pytest.mark.parametrize(("kind", "text", "remedy"), CASES)
def test_remedy_fits(kind: str, text: str, remedy: str) -> None:
    """Sign-in, permission, quota, compute, missing workspace, unreachable service: each has its own."""
    assert told(of_sdk(kind)(text)).remedy == remedy


@pytest.mark.parametrize(
    ("status", "remedy"), [(401, "SIGN_IN"), (403, "PERMISSION"), (404, "NOT_FOUND"), (500, "BUSY")]
)
def test_service_errors_by_status(status: int, remedy: str) -> None:
    """The SDK's ServiceException tells only its status reliably; without details, printing it raises."""
    response = of_sdk("requests.Response")()
    response.status_code = status
    response._content = b"{}"
    inner = of_sdk("azureml._restclient.models.error_response.ErrorResponseException")(
        lambda *_: None, response
    )
    assert told(of_sdk("azureml.exceptions.ServiceException")(inner)).remedy == getattr(failures, remedy)


def test_services_own_words_are_shown() -> None:
    """Of Azure's nested answer the innermost message is shown, not the JSON around it."""
    error = told(of_sdk(EXECUTION)(service_text(400, "X", "The node size is wrong.")))
    assert "The node size is wrong." in str(error)
    assert "{" not in str(error)


def test_others_pass() -> None:
    """Our own errors and our own mistakes go through unchanged."""
    for error in (SettingsError("a", "b"), AttributeError("a bug"), KeyboardInterrupt()):
        with pytest.raises(type(error)), azureml_errors("x"):
            raise error
