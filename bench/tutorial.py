"""The tutorial's training loop, as a baseline: torchvision's ToTensor, a DataLoader with two workers.

    python bench/tutorial.py --data data/cifar10 --images 8000

It reads class folders instead of downloading CIFAR-10; the images are in memory as torchvision's CIFAR10
keeps them, one array, before the clock starts. It prints the images/s after the first batch.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import torch
import torchvision.transforms as transforms
from PIL import Image
from torch import nn, optim
from torch.utils.data import DataLoader, Dataset

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))
from data import start_reading
from model import Net


class Cifar(Dataset):
    """What torchvision.datasets.CIFAR10 does for each image."""

    def __init__(self, folder: Path, count: int) -> None:
        _, reading, _ = start_reading(folder, 2)
        images = reading.result()
        keep = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))[:count]
        self.pixels = images.pixels[keep].permute(0, 2, 3, 1).contiguous().numpy()
        self.labels = images.labels[keep].tolist()
        self.transform = transforms.Compose(
            [transforms.ToTensor(), transforms.Normalize((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))]
        )

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return self.transform(Image.fromarray(self.pixels[index])), self.labels[index]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--images", type=int, default=8000)
    parser.add_argument("--batch-size", type=int, default=4)
    arguments = parser.parse_args()
    trainset = Cifar(arguments.data, arguments.images)
    loader = DataLoader(trainset, batch_size=arguments.batch_size, shuffle=True, num_workers=2)
    net = Net()
    criterion = nn.CrossEntropyLoss()
    optimizer = optim.SGD(net.parameters(), lr=0.001, momentum=0.9)
    running_loss = 0.0
    first = 0.0
    for inputs, labels in loader:
        optimizer.zero_grad()
        outputs = net(inputs)
        loss = criterion(outputs, labels)
        loss.backward()
        optimizer.step()
        running_loss += loss.item()
        first = first or time.perf_counter()
    rate = (len(trainset) - arguments.batch_size) / (time.perf_counter() - first)
    print(f"{rate:,.0f} images/s after the first batch")
