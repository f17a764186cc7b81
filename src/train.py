"""Train the tutorial's network on images in class folders.

    python train.py --data ../data/cifar10                     # the tutorial: batch 4, 2 epochs
    python train.py --data ../data/cifar10 --batch-size 256 --lr 0.05 --epochs 10
    torchrun --nproc-per-node 2 train.py --data ../data/cifar10 --batch-size 64

It prints the tutorial's lines and leaves in the working directory

    outputs/model.pt        the weights, a state_dict for model.py's Net
    outputs/metrics.json    what was run (seed, threads, device, ...), the loss curve, the accuracy

The same arguments, data, seed and number of threads give the same bytes on the same kind of processor.
`--batch-size` counts the images of a step over all processes, so N processes train the model that one
would. Azure ML's and torchrun's variables (WORLD_SIZE, RANK, LOCAL_RANK, MASTER_ADDR) are understood.
Exit code 2: the data or an argument is wrong, said in one line.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import os
import time
from pathlib import Path
from typing import NoReturn

from data import DataError, start_reading
from metrics import Metrics, write_whole
from threads import SMALL, choose_threads, let_idle_threads_sleep, usable_cpus

EPOCHS = 2
BATCH_SIZE = 4
LEARNING_RATE = 0.001
MOMENTUM = 0.9
SEED = 0
REPORT_EVERY = 2000  # batches, as in the tutorial
OUTPUTS = Path("outputs")  # Azure ML collects this folder of the working directory

RANK = int(os.environ.get("RANK", "0"))
LOCAL_RANK = int(os.environ.get("LOCAL_RANK", "0"))
WORLD = int(os.environ.get("WORLD_SIZE", "1"))
LOCAL_WORLD = int(os.environ.get("LOCAL_WORLD_SIZE", str(WORLD)))  # torchrun says it, Azure ML doesn't


def say(text: str) -> None:
    """Print a line at once; one process speaks for all."""
    if RANK == 0:
        print(text, flush=True)


def fail(message: object) -> NoReturn:
    """End with one line that says what is wrong."""
    print(f"train.py: {message}", flush=True)
    raise SystemExit(2)


started = time.perf_counter()
parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("--data", type=Path, required=True, help="folder with train/<class>/ and test/<class>/")
parser.add_argument("--epochs", type=int, default=EPOCHS)
parser.add_argument("--batch-size", type=int, default=BATCH_SIZE, help="images a step, over all processes")
parser.add_argument("--lr", type=float, default=LEARNING_RATE)
parser.add_argument("--momentum", type=float, default=MOMENTUM)
parser.add_argument("--seed", type=int, default=SEED)
parser.add_argument("--threads", default="auto", help="a number, or auto: OMP_NUM_THREADS, else chosen")
arguments = parser.parse_args()
if arguments.batch_size < 1 or arguments.epochs < 1:
    parser.error("--batch-size and --epochs are at least 1")
if arguments.threads != "auto" and not (arguments.threads.isdecimal() and int(arguments.threads)):
    parser.error("--threads is a number from 1, or auto")
if arguments.batch_size % WORLD:
    parser.error(f"a batch of {arguments.batch_size} images can't be shared evenly by {WORLD} processes")

# The images are decoded by child processes while this one imports torch, which takes seconds.
try:
    classes, reading, reading_test = start_reading(arguments.data, max(1, usable_cpus() // LOCAL_WORLD))
except DataError as error:
    fail(error)

let_idle_threads_sleep()
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS is deterministic only with this
import torch  # noqa: E402  after what must come before it
from torch.nn import functional  # noqa: E402

from model import Net  # noqa: E402
from sgd import SGD  # noqa: E402

try:
    train = reading.result(talk=RANK == 0)
except DataError as error:
    fail(error)
say(f"{len(train):,} images of {len(classes)} classes in memory")

share = arguments.batch_size // WORLD  # images of a step that this process sees
gpus = torch.cuda.device_count()
device = torch.device("cuda", LOCAL_RANK % gpus) if gpus else torch.device("cpu")
torch.backends.mkldnn.enabled = (
    share >= SMALL
)  # on tiny batches oneDNN's preparations cost more than they save
torch.set_deterministic_debug_mode("warn")
torch.backends.cudnn.benchmark = False
torch.manual_seed(arguments.seed)
shuffle = torch.Generator().manual_seed(arguments.seed)

train = train.to(device)
net = Net(len(classes)).to(device)
sample, sample_labels = next(train.batches(torch.arange(min(len(train), share)), min(len(train), share)))
threads = choose_threads(arguments.threads, net, sample, sample_labels, LOCAL_WORLD)
torch.set_num_threads(threads)

forward = net
if WORLD > 1:
    from torch import distributed
    from torch.nn.parallel import DistributedDataParallel

    if os.environ.get("MASTER_ADDR") in ("127.0.0.1", "localhost"):
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")  # a container without a network has no other
    distributed.init_process_group("nccl" if gpus >= LOCAL_WORLD else "gloo")  # nccl wants a GPU each
    forward = DistributedDataParallel(net, device_ids=[device] if gpus else None)

optimizer = SGD(net.parameters(), arguments.lr, arguments.momentum)
metrics = None
if RANK == 0:
    OUTPUTS.mkdir(exist_ok=True)
    metrics = Metrics(OUTPUTS)
    metrics.facts |= {
        "batch_size": arguments.batch_size,
        "classes": classes,
        "cpu": torch.backends.cpu.get_cpu_capability(),
        "device": torch.cuda.get_device_name(device) if gpus else "cpu",
        "epochs": arguments.epochs,
        "lr": arguments.lr,
        "momentum": arguments.momentum,
        "processes": WORLD,
        "seed": arguments.seed,
        "threads": threads,
        "torch": torch.__version__,
        "train_images": len(train),
    }
    metrics.write()
many = f", {WORLD} processes" if WORLD > 1 else ""
say(f"training on {device.type} with {threads} thread{'s' * (threads > 1)}{many}, seed {arguments.seed}")


def report(epoch: int, batch: int, step: int, loss_sum: torch.Tensor, batches: int) -> None:
    """Print and log the mean loss of the last `batches` batches, over all processes."""
    if WORLD > 1:
        distributed.all_reduce(loss_sum)
        loss_sum /= WORLD
    loss = loss_sum.item() / batches
    say(f"epoch={epoch}, batch={batch:5}: loss {loss:.2f}")
    if metrics:
        metrics.log("loss", loss, step)
    if loss != loss:
        fail("the loss is not a number any more; a smaller --lr may help")


step = 0
first = started
for epoch in range(1, arguments.epochs + 1):
    order = torch.randperm(len(train), generator=shuffle).to(device)
    loss_sum = torch.zeros((), device=device)
    reported = 0
    batch = 0
    for batch, (pixels, labels) in enumerate(train.batches(order, arguments.batch_size, RANK, WORLD), 1):
        rest = len(train) - (batch - 1) * arguments.batch_size
        if WORLD > 1 and rest < arguments.batch_size:  # shared unevenly: DDP's mean must weigh images alike
            loss = functional.cross_entropy(forward(pixels), labels, reduction="sum") * (WORLD / rest)
        else:
            loss = functional.cross_entropy(forward(pixels), labels)
        loss.backward()
        optimizer.step()
        loss_sum += loss.detach()
        step += 1
        if step == 1:
            first = time.perf_counter()
            say(f"first batch after {first - started:.1f} s")
        if batch % REPORT_EVERY == 0:
            report(epoch, batch, step, loss_sum, REPORT_EVERY)
            loss_sum.zero_()
            reported = batch
    if not reported:  # an epoch too short for the tutorial's lines gets one
        report(epoch, batch, step, loss_sum, batch)
say("Finished Training")
rate = (arguments.epochs * len(train) - arguments.batch_size) / (time.perf_counter() - first)
say(f"{max(0, rate):,.0f} images/s after the first batch")

if metrics:
    buffer = io.BytesIO()  # a file's name would become part of the bytes
    torch.save({name: tensor.detach().cpu() for name, tensor in net.state_dict().items()}, buffer)
    write_whole(OUTPUTS / "model.pt", buffer.getvalue())
    digest = hashlib.sha256(buffer.getvalue()).hexdigest()
    metrics.facts["weights"] = {"path": "model.pt", "sha256": digest}
    try:
        test = reading_test.result() if reading_test else None
    except DataError as error:
        fail(error)
    if test:
        torch.backends.mkldnn.enabled = True
        right = 0
        with torch.inference_mode():
            for pixels, labels in test.to(device).batches(torch.arange(len(test), device=device), 1000):
                right += int((net(pixels).argmax(1) == labels).sum())
        metrics.facts["accuracy"] = right / len(test)
        say(f"accuracy on {len(test):,} test images: {right / len(test):.1%}")
        metrics.log("accuracy", right / len(test), step)
    metrics.write()
    say(f"weights sha256 {digest} {OUTPUTS / 'model.pt'}")
if WORLD > 1:
    distributed.destroy_process_group()
