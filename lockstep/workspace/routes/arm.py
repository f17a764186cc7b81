"""Azure's front door: cloud metadata, sign-in, subscriptions, the workspace itself and service discovery."""

from __future__ import annotations

import time
from typing import Any
from urllib.parse import parse_qs

from lockstep.workspace.call import Call, Routes
from lockstep.workspace.fault import Fault
from lockstep.workspace.identity import (
    ARM_PATH,
    CLOUD,
    DAY,
    DISCOVERY,
    DISCOVERY_OF_JOBS,
    NAME,
    RESOURCE_GROUP,
    SUBSCRIPTION,
)

routes = Routes()
SERVICES = (
    "api",
    "experimentation",
    "history",
    "hyperdrive",
    "modelmanagement",
    "artifact",
    "metric",
    "mlflow",
)


@routes.on("GET", "/metadata/endpoints", public=True)
def cloud_metadata(call: Call) -> Any:
    """Tell the SDKs where this cloud's services are: everything is here, and nothing is a secret.

    `/adfs/` keeps SDK v1 from asking the public login host. SDK v2 makes host names of what follows the portal's
    second dot. The storage suffix is the trick of blobs.py: with an account's name before it, it leads here.
    """
    host = call.request.headers["host"]
    cloud = {
        "portal": f"https://localhost:{host.rpartition(':')[2]}/",
        "resourceManager": f"{call.base}/",
        "authentication": {
            "loginEndpoint": f"{call.base}/adfs/{call.site.identity.tenant}",
            "audiences": [f"{call.base}/"],
        },
        "graphAudience": f"{call.base}/",
        "batch": "x",
        "media": "x",
        "gallery": "x",
        "sqlManagement": "x",
        "vmImageAliasDoc": "x",
        "activeDirectoryDataLake": "x",
        "suffixes": {
            "storage": f"x@{host}",
            "keyVaultDns": "x",
            "sqlServerHostname": "x",
            "acrLoginServer": "x",
        },
    }
    # in a job, SDK v1 asks for `AzureCloud` by name, and for the public one if it isn't in this list
    return [{"name": name, **cloud} for name in (CLOUD, "AzureCloud")]


@routes.on("GET|POST", "/MSI/{secret}/token", public=True)
def managed_identity(call: Call) -> Any:
    """Give the workspace's token to whoever knows the secret part of the address."""
    if not call.site.identity.same("sign-in", call.path["secret"]):
        raise Fault(
            401,
            "The managed identity endpoint's address isn't the one of this workspace.",
            "AuthenticationFailed",
        )
    return {**_token(call), "resource": f"{call.base}/"}


@routes.on("GET", "/adfs/{tenant}/.well-known/openid-configuration", public=True)
def openid_configuration(call: Call) -> Any:
    """Tell a service principal's sign-in where to ask."""
    here = f"{call.base}/adfs/{call.path['tenant']}"
    return {
        "issuer": here,
        "authorization_endpoint": f"{here}/oauth2/authorize",
        "token_endpoint": f"{here}/oauth2/token",
    }


@routes.on("POST", "/adfs/{tenant}/oauth2/token", public=True)
def service_principal(call: Call) -> Any:
    """Sign a service principal in whose password is the workspace's own sign-in secret."""
    form = parse_qs(call.body if isinstance(call.body, str) else "")
    if not call.site.identity.same("sign-in", (form.get("client_secret") or [""])[0]):
        raise Fault(401, "The service principal's password isn't this workspace's.", "AuthenticationFailed")
    return _token(call)


def _token(call: Call) -> dict[str, Any]:
    token = call.site.identity.token(DAY)
    lifetime = {"expires_in": str(DAY), "expires_on": str(int(time.time()) + DAY)}
    return {"access_token": token, "token_type": "Bearer", **lifetime}


@routes.on("GET", "/subscriptions")
def subscriptions(call: Call) -> Any:
    """List the one subscription."""
    return {"value": [_subscription(call)]}


@routes.on("GET", "/subscriptions/{subscription}")
def subscription(call: Call) -> Any:
    """Show the subscription."""
    return _subscription(call)


def _subscription(call: Call) -> dict[str, Any]:
    return {
        "id": f"/subscriptions/{SUBSCRIPTION}",
        "subscriptionId": SUBSCRIPTION,
        "displayName": "Lockstep's embedded workspace",
        "state": "Enabled",
        "tenantId": call.site.identity.tenant,
    }


@routes.on("GET", "/subscriptions/{subscription}/resources")
def resources(call: Call) -> Any:
    """List the workspaces of the subscription: this one."""
    return {"value": [{"id": ARM_PATH, "name": NAME, "type": _TYPE, "location": "local", "tags": {}}]}


@routes.on("GET", "/subscriptions/{subscription}/resourceGroups/{group}")
def resource_group(call: Call) -> Any:
    """Show the resource group."""
    return {
        "id": ARM_PATH.split("/providers")[0],
        "name": RESOURCE_GROUP,
        "location": "local",
        "properties": {},
    }


_TYPE = "Microsoft.MachineLearningServices/workspaces"


@routes.on("GET", "{WS}", "/rp/workspaces{WS}")
def workspace(call: Call) -> Any:
    """Show the workspace. The discovery address holds a secret, because it is asked without a token.

    A job's is another one: what it finds there doesn't let it into the studio.
    """
    group = ARM_PATH.split("/Microsoft.MachineLearningServices")[0]
    purpose = DISCOVERY_OF_JOBS if call.run else DISCOVERY
    discovery = f"{call.base}/discovery/{call.site.identity.secret(purpose)}"
    return {
        "id": ARM_PATH,
        "name": NAME,
        "type": _TYPE,
        "location": "local",
        "tags": {},
        "sku": {"name": "Basic", "tier": "Basic"},
        "identity": {"type": "SystemAssigned", "tenantId": call.site.identity.tenant},
        "properties": {
            "friendlyName": "Lockstep's embedded workspace",
            "description": "",
            "workspaceId": call.site.identity.workspace,
            "discoveryUrl": discovery,
            "tenantId": call.site.identity.tenant,
            "provisioningState": "Succeeded",
            "storageAccount": f"{group}/Microsoft.Storage/storageAccounts/embedded",
            "keyVault": f"{group}/Microsoft.Keyvault/vaults/embedded",
            "applicationInsights": f"{group}/Microsoft.insights/components/embedded",
            "containerRegistry": None,
            "mlFlowTrackingUri": f"azureml://{call.request.headers['host']}/mlflow/v1.0{ARM_PATH}",
        },
    }


@routes.on("GET", "/discovery/{secret}", public=True)
def discovery(call: Call) -> Any:
    """Tell where each service is: all of them here, and the studio on its own address."""
    if call.site.identity.same(DISCOVERY, call.path["secret"]):
        studio = call.site.studio or call.base
    elif call.site.identity.same(DISCOVERY_OF_JOBS, call.path["secret"]):
        studio = call.site.portal or call.base
    else:
        raise Fault(401, "The discovery address isn't the one of this workspace.", "AuthenticationFailed")
    return {**dict.fromkeys(SERVICES, call.base), "studio": studio}
