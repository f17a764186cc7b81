r"""Training speed: src/train.py against the tutorial's own loop, in the image, as ratios.

    docker run --rm --shm-size 2g -v "$PWD:/repo:ro" -w /repo lockstep/pytorch-env \
        python bench/training.py --data data/cifar10            (2 cores: some minutes)

Both run as processes of their own, one after the other, several times; what is printed is the median
and the range of each, and the ratio of the medians. One epoch over the same number of images. Run it on
a machine that does nothing else, or read the ratios only.
"""

from __future__ import annotations

import argparse
import os
import re
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def images_per_second(script: Path, arguments: list[str], folder: Path) -> float:
    """Run a script and return the rate that it prints."""
    done = subprocess.run(
        [sys.executable, str(script), *arguments], cwd=folder, capture_output=True, text=True, check=True
    )
    (rate,) = re.findall(r"([\d,]+) images/s after the first batch", done.stdout)
    return float(rate.replace(",", ""))


def subset(data: Path, folder: Path, count: int) -> None:
    """Link `count` images, evenly from the classes, into a dataset of their own."""
    classes = sorted(path for path in (data / "train").iterdir() if path.is_dir())
    for each in classes:
        (folder / "train" / each.name).mkdir(parents=True)
        for image in sorted(each.iterdir())[: count // len(classes)]:
            os.symlink(image.resolve(), folder / "train" / each.name / image.name)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--images", type=int, default=8000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[4, 64, 256])
    wanted = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        subset(wanted.data, folder / "data", wanted.images)
        print(f"{'batch':>5}  {'way':8}  {'images/s':>8}  {'range':>15}  ratio")
        for size in wanted.batch_sizes:
            options = ["--data", str(folder / "data"), "--batch-size", str(size)]
            ways = {
                "tutorial": (ROOT / "bench" / "tutorial.py", [*options, "--images", str(wanted.images)]),
                "train.py": (ROOT / "src" / "train.py", [*options, "--epochs", "1"]),
            }
            rates: dict[str, list[float]] = {way: [] for way in ways}
            for _ in range(wanted.rounds):
                for way, (script, arguments) in ways.items():
                    rates[way].append(images_per_second(script, arguments, folder))
            base = statistics.median(rates["tutorial"])
            for way, found in rates.items():
                median = statistics.median(found)
                spread = f"{min(found):,.0f} to {max(found):,.0f}"
                print(f"{size:5}  {way:8}  {median:8,.0f}  {spread:>15}  {median / base:.1f}", flush=True)
