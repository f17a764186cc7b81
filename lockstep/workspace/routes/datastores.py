"""The datastore service: one datastore, a folder of this workspace, that looks like Azure's blob storage."""

from __future__ import annotations

from typing import Any

from lockstep.workspace.call import Call, Routes
from lockstep.workspace.fault import missing
from lockstep.workspace.routes.blobs import ACCOUNT, DATASTORE, datastore_resource

routes = Routes()
STORES = "/datastore/v1.0{WS}"


def document(call: Call) -> dict[str, Any]:
    """Return the datastore as Azure ML writes it; the client makes `https://{account}.blob.{endpoint}` of it."""
    return {
        "name": DATASTORE,
        "dataStoreType": "AzureBlob",
        "hasBeenValidated": True,
        "isDefault": True,
        "tags": {},
        "azureStorageSection": {
            "accountName": ACCOUNT,
            "containerName": DATASTORE,
            "endpoint": f"x@{call.request.headers['host']}",
            "protocol": "https",
            "credentialType": "Sas",
            "sasToken": f"?{call.signed(datastore_resource())}",
        },
    }


@routes.on("GET", f"{STORES}/default")
def default(call: Call) -> Any:
    """Show the default datastore."""
    return document(call)


@routes.on("PUT", f"{STORES}/default/{{datastore}}")
def set_default(call: Call) -> Any:
    """Choose the default datastore; there is only one to choose."""
    if call.path["datastore"] != DATASTORE:
        raise missing(f"The datastore {call.path['datastore']!r}")


@routes.on("GET", f"{STORES}/datastores")
def listing(call: Call) -> Any:
    """List the datastores."""
    return {"value": [document(call)], "continuationToken": None}


@routes.on("GET", f"{STORES}/datastores/{{datastore}}")
def get(call: Call) -> Any:
    """Show a datastore."""
    if call.path["datastore"] != DATASTORE:
        raise missing(f"The datastore {call.path['datastore']!r}")
    return document(call)
