"""The operating system's Dockerfile, built by the engine on top of the pinned base.

The base's layers are never rewritten; what the build added on top is taken out of the engine,
normalised and kept in the store, so the engine builds the same Dockerfile once.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import re
import tarfile
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from lockstep.engine.delivery import Road, deliver
from lockstep.engine.dockerfile import (
    BASE_IMAGE,
    adds_nothing,
    depends_on_day,
    read_dockerfile,
    with_build_settings,
)
from lockstep.engine.failures import engine_errors, in_words
from lockstep.engine.normalise import BUILD_FOLDER, digest_of_file, normalise
from lockstep.errors import LockstepError, SpecError
from lockstep.image import CREATED, Image, ImageLayer
from lockstep.image.layer import EPOCH
from lockstep.image.store import Store
from lockstep.progress import Progress
from lockstep.servers import certificates, read_servers

FORMAT = "1"  # raise it when the same Dockerfile would be normalised differently
CA_VARIABLES = (*certificates.VARIABLES, "NODE_EXTRA_CA_CERTS")
CONFIG_KEYS = ("User", "ExposedPorts", "Env", "Volumes", "WorkingDir", "Labels", "StopSignal", "Shell")


@dataclass(frozen=True)
class System:
    """The operating system that the environment stands on, and whether it depends on the day it was made."""

    image: Image
    depends_on_day: bool = False


def build_system(
    api: Any, base: Image, store: Store, dockerfile: Path, progress: Progress, road_of: Callable[[], Road]
) -> System:
    """Return `base` with what the Dockerfile adds: its layers, normalised, and its config.

    The Dockerfile's folder is the build context, less what its `.dockerignore` names. RUN steps have
    the host's network and its proxy settings and certificate authorities, none of which stays in the
    image. Raises SpecError with the failing step's last lines, or EngineError.
    """
    text = read_dockerfile(dockerfile)
    if adds_nothing(text):
        return System(base)
    context = context_files(dockerfile)
    key = _key(base, text, context)
    with store.home.exclusive("dockerfile"):
        known = store.read_json("dockerfiles", key)
        found = store.image(known["image"]) if known else None
        if found is not None and all(store.has(layer.digest, layer.size) for layer in found.layers):
            return System(found, depends_on_day(text))
        name = f"lockstep/base:{base.id.removeprefix('sha256:')[:32]}"
        deliver(api, base, store, name, progress, road_of)
        made: list[str] = []
        try:
            _build(api, name, text, context, progress, made)
            image = _take(api, made[-1], base, store)
        finally:
            for identity in (*made[-1:], name):  # with the last one go those that it was made from
                with contextlib.suppress(LockstepError), engine_errors("removing the build's images"):
                    api.remove_image(identity)
        store.save_image(image)
        store.write_json("dockerfiles", key, {"image": image.id})
    return System(image, depends_on_day(text))


def context_files(dockerfile: Path) -> dict[str, Path]:
    """Return the files of the build context by their path in it, sorted."""
    from docker.utils.build import exclude_paths

    folder = dockerfile.parent
    try:
        lines = (folder / ".dockerignore").read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        lines = []
    patterns = [line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#")]
    paths = sorted(exclude_paths(str(folder), patterns, dockerfile=dockerfile.name))
    return {path: folder / path for path in paths if path != ".dockerignore"}


def _key(base: Image, text: str, context: dict[str, Path]) -> str:
    """Return what the result follows from, as one hash: base, Dockerfile and context."""
    found = hashlib.sha256(json.dumps([FORMAT, base.id, text]).encode())
    for name, path in context.items():
        told = "folder"
        if path.is_symlink():
            told = os.readlink(path)
        elif path.is_file():
            told, _ = digest_of_file(path)
        found.update(json.dumps([name, bool(path.lstat().st_mode & 0o111), told]).encode())
    return found.hexdigest()


def _build(
    api: Any, name: str, text: str, context: dict[str, Path], progress: Progress, made: list[str]
) -> None:
    """Build on the image `name`; `made` gets the engine's id of what comes out of each step."""
    servers = read_servers()
    settings = {"SOURCE_DATE_EPOCH": str(EPOCH)}  # bytecode then has no times in it, nor has much else
    extra: dict[str, bytes] = {}
    if authorities := certificates.joined((*servers.ca_bundles(), *_nodes_own())):
        at = f"/{BUILD_FOLDER}/ca.crt"
        extra[f"{BUILD_FOLDER}/ca.crt"] = authorities
        extra[f"{BUILD_FOLDER}/apt.conf"] = f'Acquire::https::CaInfo "{at}";\n'.encode()
        settings |= dict.fromkeys(CA_VARIABLES, at) | {"APT_CONFIG": f"/{BUILD_FOLDER}/apt.conf"}
    told = with_build_settings(text, settings, BUILD_FOLDER if extra else "")
    extra[f"{BUILD_FOLDER}.Dockerfile"] = told.encode()
    arguments = {
        BASE_IMAGE: name,
        **servers.proxies.variables(),
    }  # the engine leaves proxies out of the image
    lines: list[str] = []
    with contextlib.ExitStack() as stack:
        task = stack.enter_context(progress.task("docker/Dockerfile", unit="steps"))
        stack.enter_context(engine_errors("building docker/Dockerfile"))
        file = stack.enter_context(_context(context, extra))
        for event in api.build(
            fileobj=file,
            custom_context=True,
            dockerfile=f"{BUILD_FOLDER}.Dockerfile",
            buildargs=arguments,
            network_mode="host",
            rm=True,
            forcerm=True,
            decode=True,
        ):
            if told_error := event.get("error"):
                raise _failed(str(told_error), lines)
            if "ID" in (event.get("aux") or {}):
                made.append(str(event["aux"]["ID"]))
            for line in str(event.get("stream", "")).splitlines():
                lines = [*lines[-11:], line]
                if step := re.fullmatch(r" ---> ([0-9a-f]{12,})", line):
                    made.append(step[1])
                if line.startswith("Step "):
                    task.advance()
                    progress.say(f"  {line}")


def _failed(told: str, lines: list[str]) -> LockstepError:
    """Return the error for a build that failed; a step's own failure is the Dockerfile's."""
    if any(sign in told for sign in ("non-zero code", "COPY failed", "ADD failed", "parse error", "unknown")):
        last = "\n".join(lines)
        return SpecError(f"docker/Dockerfile can't be built: {told}\n{last}", "Mend docker/Dockerfile.")
    return in_words(told, "building docker/Dockerfile")


def _nodes_own() -> tuple[str, ...]:
    """Return the file of certificates that Node.js adds to its own, which only this build's steps may need."""
    path = os.environ.get("NODE_EXTRA_CA_CERTS", "")
    return (path,) if Path(path).is_file() else ()


def _context(files: dict[str, Path], extra: dict[str, bytes]) -> IO[bytes]:
    """Return the build context as a tar in which times and owners say nothing of this machine."""
    file = tempfile.TemporaryFile()  # noqa: SIM115 - whoever builds closes it
    with tarfile.open(fileobj=file, mode="w") as tar:
        for name, path in files.items():
            info = tar.gettarinfo(path, name)
            info.uid = info.gid = 0
            info.uname = info.gname = ""
            info.mtime = EPOCH
            info.mode = 0o755 if info.isdir() or info.mode & 0o111 else 0o644
            if info.isreg():
                with path.open("rb") as content:
                    tar.addfile(info, content)
            else:
                tar.addfile(info)
        for name, data in extra.items():
            info = tarfile.TarInfo(name)
            info.size, info.mtime, info.mode = len(data), EPOCH, 0o644
            tar.addfile(info, io.BytesIO(data))
    file.seek(0)
    return file


def _take(api: Any, built: str, base: Image, store: Store) -> Image:
    """Return the image that the engine built, its new layers normalised and in the store."""
    with store.home.workspace("dockerfile") as folder:
        path = folder / "image.tar"
        with path.open("wb") as file, engine_errors("taking out what docker/Dockerfile added"):
            for chunk in api.get_image(built):
                file.write(chunk)
        with tarfile.open(path) as tar:
            (entry,) = json.load(_member(tar, "manifest.json"))
            config = json.load(_member(tar, entry["Config"]))
            ours = len(base.layers)
            if config["rootfs"]["diff_ids"][:ours] != [layer.diff_id for layer in base.layers]:
                raise SpecError(
                    f"What docker/Dockerfile builds doesn't stand on ${{{BASE_IMAGE}}}.",
                    f"Let its last stage begin `FROM ${{{BASE_IMAGE}}}`.",
                )
            new = [normalise(_member(tar, layer), store) for layer in entry["Layers"][ours:]]
    return _with(base, new, config)


def _member(tar: tarfile.TarFile, name: str) -> IO[bytes]:
    member = tar.extractfile(name)
    assert member is not None, name
    return member


def _with(base: Image, new: list[ImageLayer | None], built: dict[str, Any]) -> Image:
    """Return `base` with new layers on it and what the built config says; a None is a layer left out."""
    told = json.loads(base.config)
    steps = [x for x in built.get("history") or [] if not x.get("empty_layer")][-len(new) :] if new else []
    kept = [(layer, step) for layer, step in zip(new, steps, strict=True) if layer is not None]
    told["created"] = CREATED
    told["config"] = {key: built["config"][key] for key in CONFIG_KEYS if built["config"].get(key)}
    told["rootfs"] = {
        "type": "layers",
        "diff_ids": [x.diff_id for x in (*base.layers, *(layer for layer, _ in kept))],
    }
    base_history = told.get("history") or [{"created_by": "base image"}] * len(base.layers)
    told["history"] = [
        *base_history,
        *({"created": CREATED, "created_by": _instruction(step)} for _, step in kept),
    ]
    config = json.dumps(told, sort_keys=True, separators=(",", ":")).encode()
    return Image(config, (*base.layers, *(layer for layer, _ in kept)))


def _instruction(step: dict[str, Any]) -> str:
    """Return a history entry's instruction without the build arguments that the engine puts before it."""
    return re.sub(r"^\|\d+ (?:\w+=\S* )*", "", str(step.get("created_by", "")))
