"""The tutorial's network: two convolutions and three linear layers, for 32x32 colour images."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional


class Net(nn.Module):  # type: ignore[misc]  # torch is in the image, not on the host
    """Scores for each of `classes`, from images of shape (N, 3, 32, 32) with pixels in [-1, 1]."""

    def __init__(self, classes: int = 10) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 6, 5)
        self.pool = nn.MaxPool2d(2, 2)
        self.conv2 = nn.Conv2d(6, 16, 5)
        self.fc1 = nn.Linear(16 * 5 * 5, 120)
        self.fc2 = nn.Linear(120, 84)
        self.fc3 = nn.Linear(84, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.pool(functional.relu(self.conv1(x)))
        x = self.pool(functional.relu(self.conv2(x)))
        x = x.flatten(1)
        x = functional.relu(self.fc1(x))
        x = functional.relu(self.fc2(x))
        return self.fc3(x)
