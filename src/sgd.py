"""SGD with momentum by torch's own fused kernel, without torch.optim.SGD around it.

Making a torch.optim.Optimizer imports torch's compiler (torch._dynamo and sympy behind it), which took
3 to 5 s before the first batch on the machine this was measured on. The update is the same, bit for bit.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch.optim.sgd import sgd


class SGD:
    """Steps `parameters` by their gradients; every parameter must have one at each step."""

    def __init__(self, parameters: Iterable[torch.nn.Parameter], lr: float, momentum: float) -> None:
        self.parameters = list(parameters)
        self.lr = lr
        self.momentum = momentum
        self._velocities: list[torch.Tensor | None] = [None] * len(self.parameters)

    def step(self) -> None:
        """Update the parameters and drop their gradients."""
        with torch.no_grad():
            sgd(
                self.parameters,
                [parameter.grad for parameter in self.parameters],
                self._velocities,
                fused=True,
                weight_decay=0.0,
                momentum=self.momentum,
                lr=self.lr,
                dampening=0.0,
                nesterov=False,
                maximize=False,
            )
        for parameter in self.parameters:
            parameter.grad = None
