"""GPU: a spec that is solved for machines with a GPU must not end with a torch that can't use one."""

from __future__ import annotations

import re
from collections.abc import Iterable

from lockstep.errors import SolveError
from lockstep.lock.locked import LockedPackage
from lockstep.spec import Spec

_FRAMEWORKS = {
    "pytorch",
    "libtorch",
    "torch",
    "torchvision",
    "torchaudio",
    "tensorflow",
    "tensorflow-base",
    "jaxlib",
}
_ASKS_FOR_CPU = re.compile(r"cpu", re.IGNORECASE)


def check_gpu(spec: Spec, packages: Iterable[LockedPackage]) -> None:
    """Raise SolveError if `__cuda` is there and a framework came out as a CPU build that nobody asked for."""
    if "__cuda" not in dict(spec.virtual_packages) or _wants_cpu(spec):
        return
    for package in packages:
        flavour = package.build if package.manager == "conda" else package.version.partition("+")[2]
        if package.name in _FRAMEWORKS and re.search(r"(^|[^a-z])cpu", flavour or ""):
            raise SolveError(
                f"The spec is for a GPU (__cuda {dict(spec.virtual_packages)['__cuda']}), but {package.name} "
                f"{package.version} {package.build or ''} is a build for the CPU.".replace("  ", " "),
                "Correct the version or the channel, ask for a newer __cuda, or say that the CPU is meant: "
                'set `virtual_packages: {__cuda: ""}` in invoke.yaml.',
            )


def _wants_cpu(spec: Spec) -> bool:
    """Tell whether the spec names a CPU build: `cpuonly`, `pytorch=*=cpu*`, `torch==2.9+cpu`."""
    options = spec.pip_options
    urls = (options.index_url or "", *options.extra_index_urls, *options.find_links)
    return any(_ASKS_FOR_CPU.search(text) for text in (*spec.conda, *spec.pip, *urls))
