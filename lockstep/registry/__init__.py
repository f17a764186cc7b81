"""OCI registries, one of the edges: base images from them, images to them.

    resolve("debian:12-slim")      what a reference means today, as a digest
    pull_base(reference, digest)   that manifest's blobs into the store
    push(image, store, reference)  an image's blobs to a registry, what is there skipped

Credentials are those that `docker login` and `az acr login` left. OCI distribution spec 1.1.
"""

from lockstep.registry.pull import pull_base, resolve
from lockstep.registry.push import PushResult, push
from lockstep.registry.reference import Reference

__all__ = ["PushResult", "Reference", "pull_base", "push", "resolve"]
