"""The content service: snapshots of source folders."""

from __future__ import annotations

import json
import uuid
from typing import Any

from lockstep.workspace.call import Call, Routes
from lockstep.workspace.identity import ARM_PATH
from lockstep.workspace.routes.blobs import blob_id, snapshot_blob_url, zip_url
from lockstep.workspace.shapes import FileNames, NewSnapshot
from lockstep.workspace.snapshots import EPOCH, NONE

routes = Routes()
V1, V2 = "/content/v1.0{WS}/snapshots", "/content/v2.0{WS}/snapshots"
EMPTY_TREE = {"name": "", "type": "Directory", "hash": "", "timestamp": EPOCH, "children": {}}


@routes.on("GET", f"{V1}/latest/metadata", f"{V2}/latest/metadata")
def latest(call: Call) -> Any:
    """Show the newest snapshot, against which the client sends what changed; an empty one where there is none."""
    row = call.site.snapshots.latest()
    return {"id": row["id"], "root": json.loads(row["tree"])} if row else {"id": NONE, "root": EMPTY_TREE}


@routes.on("GET", f"{V1}/{{snapshot}}/metadata", f"{V2}/{{snapshot}}/metadata", f"{V2}/{{snapshot}}")
def metadata(call: Call) -> Any:
    """Show a snapshot's tree."""
    row = call.site.snapshots.get(call.path["snapshot"])
    return {"id": row["id"], "root": json.loads(row["tree"]), "createdTime": row["created"]}


@routes.on("POST", f"{V2}/getblob")
def addresses_to_upload(call: Call) -> Any:
    """Give each file name an address to upload to."""
    sent = call.fields(FileNames)
    names = sent.get("FileNames") or sent.get("fileNames") or []
    nodes = [{"fullName": name, "blobUri": snapshot_blob_url(call, uuid.uuid4().hex)} for name in names]
    return {"fileNodes": nodes}


@routes.on("POST", f"{V2}/{{snapshot}}/zip")
def restore(call: Call) -> Any:
    """Give the address of the snapshot as a zip file."""
    return {"zipSasUri": zip_url(call, call.site.snapshots.get(call.path["snapshot"])["id"])}


@routes.on("POST", f"{V2}/{{snapshot}}")
def create(call: Call) -> Any:
    """Keep a snapshot whose changed files were uploaded."""
    sent = call.fields(NewSnapshot)
    nodes = (sent.get("FileRevisionList") or {}).get("FileNodes") or []
    uploaded = {node["FullName"]: blob_id(node["BlobUri"]) for node in nodes}
    call.site.snapshots.create(
        call.path["snapshot"], sent.get("ParentSnapshotId"), sent["DirTreeNode"], uploaded
    )
    return {"id": call.path["snapshot"], "workspace": ARM_PATH}
