"""The image's road through a registry: pushed to Debian's docker-registry, registered by digest, pulled, run."""

from __future__ import annotations

import json
from typing import Any

import pytest

from lockstep.engine import Engine
from lockstep.home import Home
from lockstep.image import LAYER, Image, ImageLayer
from lockstep.image.store import Store
from tests.azureml.conftest import Checkout
from tests.registry.conftest import Registry, docker_config, registry, start_registry  # noqa: F401 - fixtures
from tests.workspace.images import python_tar

pytestmark = pytest.mark.engine

REPOSITORY = """
from types import SimpleNamespace as Made
from lockstep.errors import LockstepError
from lockstep.image import Image, ImageLayer
from lockstep.submission.image import push_image
project = project_of({"repository": repository})
service = open_workspace(project)
pushed = push_image(project, service, Image(config, (ImageLayer(*layer),)))
again = push_image(project, service, Image(config, (ImageLayer(*layer),)))
"""


@pytest.fixture
def image(checkout: Checkout) -> Image:
    """An image with Python, in the project's store and not in the engine."""
    store = Store(Home(checkout.root / "home"))
    tar = python_tar(with_packages=False)
    diff_id = store.put(tar)
    told = {
        "architecture": "amd64",
        "os": "linux",
        "config": {"Env": ["PATH=/usr/bin:/bin"], "Labels": {"made": "for this test"}},
        "rootfs": {"type": "layers", "diff_ids": [diff_id]},
        "history": [{"created_by": "test"}],
    }
    config = json.dumps(told).encode()
    store.put(config)
    return Image(config, (ImageLayer(diff_id, diff_id, LAYER, len(tar)),))


def test_run_of_a_pushed_image(checkout: Checkout, registry: Registry, image: Image, engine: Engine) -> None:  # noqa: F811
    """The environment names the registry's manifest by digest; the run happens in the image of the same ID."""
    layer = image.layers[0]
    told: Any = checkout.run(
        REPOSITORY + "job = job_of()\n"
        "lines.clear()\n"
        "out = submit_job(project, service, job, OwnImage(pushed.reference, pushed.image_id, 'ab' * 32),\n"
        "                 on_line=lines.append)\n"
        "result = [facts(pushed), facts(again), facts(out.record), lines, said]\n",
        repository=f"{registry.host}/team/env",
        config=image.config,
        layer=(layer.diff_id, layer.digest, layer.media_type, layer.size),
    )
    pushed, again, record, lines, said = told
    assert pushed["image_id"] == image.id
    assert pushed["reference"].startswith(f"{registry.host}/team/env@sha256:")
    assert (again["sent"], again["reference"]) == (0, pushed["reference"])
    assert record["status"] == "completed", record
    assert record["image_id"] == image.id
    assert lines[-1] == "Finished Training"
    assert any("blobs were there" in line for line in said)
    assert engine.image_id(image.id) == image.id
    engine.remove_image(image.id)


def test_no_registry_is_said(checkout: Checkout, image: Image) -> None:
    """A workspace without a registry of its own, and no setting: it says what to set."""
    layer = image.layers[0]
    told: Any = checkout.run(
        "try:\n"
        + "".join(f"    {line}\n" for line in REPOSITORY.strip().splitlines())
        + "except LockstepError as error:\n    result = str(error)\n",
        repository="",
        config=image.config,
        layer=(layer.diff_id, layer.digest, layer.media_type, layer.size),
    )
    assert "has no container registry" in told
    assert "azure.repository" in told


def test_an_image_that_names_a_registry_is_pushed_to_the_workspace_s_own(
    checkout: Checkout,
    registry: Registry,  # noqa: F811
    image: Image,
) -> None:
    """What the image is called here doesn't get into the name there; a tag that is given is used."""
    layer = image.layers[0]
    stated: Any = checkout.run(
        "import dataclasses\n"
        "from types import SimpleNamespace as Made\n"
        "from lockstep.image import Image, ImageLayer\n"
        "from lockstep.submission.image import push_image\n"
        "made = Image(config, (ImageLayer(*layer),))\n"
        "own_registry = Made(name='w', own_registry=lambda: host)\n"
        "named = project.settings.model_copy(update={'image': 'localhost:5000/team/env'})\n"
        "first = push_image(dataclasses.replace(project, settings=named), own_registry, made)\n"
        "second = push_image(project_of({'repository': f'{host}/team/tagged:v1'}), own_registry, made)\n"
        "result = [first.reference, second.reference]\n",
        host=registry.host,
        config=image.config,
        layer=(layer.diff_id, layer.digest, layer.media_type, layer.size),
    )
    assert stated[0].startswith(f"{registry.host}/team/env@sha256:")
    assert stated[1].startswith(f"{registry.host}/team/tagged@sha256:")
