"""src/ in the real image: the tutorial's lines, the same bits twice, several processes, wrong data."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import pytest

from lockstep.engine import ContainerRun, Engine, Mount
from lockstep.errors import JobError
from lockstep.runs.compare import are_the_same, compare_runs

from .conftest import ROOT, Train

pytestmark = [pytest.mark.engine, pytest.mark.slow]


def python(engine: Engine, image: str, code: str, *mounts: Mount) -> list[str]:
    """Run some code in the image, where src/ can be imported, and return what it printed."""
    lines: list[bytes] = []
    status = engine.run(
        ContainerRun(
            image=image,
            command=("python", "-W", "error", "-c", code),
            environment={"PYTHONPATH": "/src"},
            mounts=(Mount(ROOT / "src", "/src", read_only=True), *mounts),
        ),
        lines.append,
    )
    told = [line.decode() for line in lines]
    assert status.code == 0, told
    return told


def test_a_run_prints_the_tutorial_s_lines_and_leaves_weights_and_metrics(train: Train) -> None:
    """An epoch too short for the tutorial's 2,000 batches gets one line, at its end."""
    run = train("--epochs", 2)
    assert run.record.status == "completed", run.lines
    assert [line for line in run.lines if line.startswith("epoch=")] == [
        line for line in run.lines if re.fullmatch(r"epoch=[12], batch=   16: loss \d\.\d\d", line)
    ]
    assert run.lines[-1] == f"weights sha256 {run.weights} outputs/model.pt"
    assert "Finished Training" in run.lines
    facts = json.loads((run.outputs / "metrics.json").read_text())
    assert facts["classes"] == ["class0", "class1", "class2"]
    assert [step for step, _ in facts["curves"]["loss"]] == [16, 32]
    assert facts["weights"]["sha256"] == run.weights
    assert (run.record.seed, run.record.threads) == (0, 1)


def test_the_same_job_gives_the_same_bits_and_another_seed_others(train: Train) -> None:
    """All outputs, not only the weights: nothing in them depends on the time."""
    one, other = train("--epochs", 1), train("--epochs", 1)
    assert dict(one.record.outputs) == dict(other.record.outputs)
    facts = {each.fact: each.verdict for each in compare_runs(one.record, other.record)}
    assert facts.pop("lock") == "unknown"
    assert set(facts.values()) == {"same"}
    assert not are_the_same(compare_runs(one.record, other.record))
    assert train("--epochs", 1, "--seed", 1).weights != one.weights


def test_measuring_threads_changes_nothing_and_the_number_repeats_the_run(train: Train) -> None:
    """A batch worth dividing is measured; the number that was chosen, passed on, gives the same bits."""
    measured = train("--epochs", 2, "--batch-size", 48)
    threads = str(measured.record.threads)
    assert train("--epochs", 2, "--batch-size", 48, "--threads", threads).weights == measured.weights
    again = train("--epochs", 2, "--batch-size", 48, variables={"OMP_NUM_THREADS": threads})
    assert (again.weights, again.record.threads) == (measured.weights, measured.record.threads)


@pytest.mark.parametrize("size", [4, 14])
def test_two_processes_train_the_model_that_one_does(
    train: Train, engine: Engine, torch_image: str, size: int
) -> None:
    """Also with a last batch of 1 or 5 images, which two processes can't share evenly."""
    options = ("--epochs", 1, "--lr", 0.01, "--batch-size", size)
    one, two = train(*options), train(*options, processes=2)
    assert two.record.status == "completed", two.lines
    assert [line for line in two.lines if line.startswith("epoch=")] == [
        line for line in one.lines if line.startswith("epoch=")
    ]
    (worst,) = python(
        engine,
        torch_image,
        "import torch; a, b = torch.load('/one'), torch.load('/two')\n"
        "print(max((a[name] - b[name]).abs().max().item() for name in a))",
        Mount(one.outputs / "model.pt", "/one", read_only=True),
        Mount(two.outputs / "model.pt", "/two", read_only=True),
    )
    assert float(worst) < 1e-5  # a share weighed wrongly is a hundred times more


def test_wrong_data_and_arguments_end_in_a_line_and_exit_code_2(train: Train, project: Path) -> None:
    """A broken image is named; nobody sees a traceback."""
    assert train("--batch-size", 0).record.exit_code == 2
    three = train("--batch-size", 4, "--threads", "many")
    assert (three.record.exit_code, three.lines[-1][:9]) == (2, "train.py:")
    broken = project / "data" / "tiny" / "train" / "class1" / "001.png"
    broken.write_bytes(broken.read_bytes()[:60])
    run = train()
    assert (run.record.exit_code, len(run.lines)) == (2, 1)
    assert run.lines[0].startswith(
        "train.py: /job/inputs/data/train/class1/001.png can't be read as an image"
    )
    (project / "data" / "tiny" / "train").rename(project / "data" / "tiny" / "elsewhere")
    assert "has no train/ folder" in train().lines[0]


def test_metrics_reach_azure_s_run_and_a_refusal_stops_nothing(train: Train, project: Path) -> None:
    """A stand-in for azureml.core, which the image lacks, notes what it gets and then refuses."""
    (project / "src" / "azureml" / "core").mkdir(parents=True)
    (project / "src" / "azureml" / "core" / "__init__.py").write_text(
        "class Run:\n"
        "    get_context = staticmethod(lambda: Run())\n"
        "    def log(self, name, value, description='', step=None):\n"
        "        print('logged', name, step, type(value).__name__)\n"
        "        if step == 32: raise OSError('the service is away')\n"
    )
    run = train("--epochs", 2, variables={"AZUREML_RUN_ID": "run1"})
    logged = [line for line in run.lines if line.startswith("logged")]
    assert logged == ["logged loss 16 float", "logged loss 32 float", "logged accuracy 32 float"]
    assert any("the service is away" in line for line in run.lines)
    assert run.record.status == "completed"
    assert run.weights == train("--epochs", 2).weights


def test_our_step_is_torch_s_sgd_bit_for_bit(engine: Engine, torch_image: str) -> None:
    """It only leaves out what imports torch's compiler."""
    told = python(
        engine,
        torch_image,
        "import copy, sys, torch\n"
        "from torch.nn import functional\n"
        "from model import Net; from sgd import SGD\n"
        "torch.manual_seed(0); one = Net(); other = copy.deepcopy(one)\n"
        "ours = SGD(one.parameters(), 0.01, 0.9)\n"
        "images, labels = torch.rand(50, 4, 3, 32, 32), torch.randint(0, 10, (50, 4))\n"
        "for x, y in zip(images, labels):\n"
        "    functional.cross_entropy(one(x), y).backward(); ours.step()\n"
        "print('torch._dynamo' in sys.modules)\n"
        "theirs = torch.optim.SGD(other.parameters(), 0.01, 0.9, fused=True)\n"
        "for x, y in zip(images, labels):\n"
        "    theirs.zero_grad(); functional.cross_entropy(other(x), y).backward(); theirs.step()\n"
        "print(all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters())))\n",
    )
    assert told == ["False", "True"]


def test_shares_of_all_processes_make_up_every_batch(engine: Engine, torch_image: str) -> None:
    """For every number of images and processes each image is seen once, in its batch."""
    told = python(
        engine,
        torch_image,
        "import torch; from data import Images\n"
        "for count in range(1, 30):\n"
        "    images = Images(torch.arange(count, dtype=torch.uint8).view(-1, 1, 1, 1), torch.arange(count))\n"
        "    order = torch.randperm(count)\n"
        "    for world in (1, 2, 3):\n"
        "        shares = [list(images.batches(order, 6, rank, world)) for rank in range(world)]\n"
        "        seen = [torch.cat([labels for _, labels in batch]).tolist() for batch in zip(*shares)]\n"
        "        assert seen == [part.tolist() for part in order.split(6)], (count, world)\n"
        "        for pixels, labels in sum(shares, []):\n"
        "            assert torch.equal(pixels.view(-1), labels / 127.5 - 1)\n"
        "print('all')\n",
    )
    assert told == ["all"]


def test_the_job_has_the_rights_that_it_has_in_a_workspace(
    train: Train, project: Path, engine: Engine
) -> None:
    """No capabilities, never root's uid, a HOME to write to; what it leaves is the caller's and can't be more."""
    (project / "src" / "train.py").write_text(
        "import json, os, pathlib, shutil\n"
        "pathlib.Path.home().joinpath('cache').write_text('')\n"
        "os.makedirs('outputs/sub')\n"
        "shutil.copy('/bin/sh', 'outputs/sub/sh')\n"
        "os.chmod('outputs/sub/sh', 0o6755)\n"
        "status = open('/proc/self/status').read()\n"
        "print(os.getuid(), *[line.split()[1] for line in status.splitlines() if line.startswith('Cap')])\n"
        "try:\n    os.chown('outputs/sub/sh', 0, 0)\nexcept PermissionError:\n    print('refused')\n"
    )
    run = train()
    uid, *capabilities = run.lines[0].split()
    assert {*capabilities} == {"0" * 16}
    caller = os.getuid()
    if not engine.info().rootless:
        assert (int(uid) == caller) is (caller != 0)
        assert run.lines[1] == "refused"
    for path in (run.outputs.parent, *run.outputs.parent.rglob("*")):
        assert path.stat().st_uid == caller, path
    assert (run.outputs / "sub" / "sh").stat().st_mode & 0o7000 == 0


@pytest.mark.skipif(os.geteuid() != 0, reason="everybody else's job runs as themselves")
def test_data_that_root_s_job_can_not_read_is_said_before_it_runs(train: Train, project: Path) -> None:
    """The folder that is closed is named, with the command that opens it."""
    (project / "data" / "tiny" / "train").chmod(0o700)
    with pytest.raises(JobError, match=r"tiny/train is closed to others(.|\n)*chmod -R a\+rX .*/data/tiny"):
        train()
    assert not (project / "runs").exists()
