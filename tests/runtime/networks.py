"""Two small networks: one like those that ship, one with everything that makes exporting awkward."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from hollowbone.runtime.base import Example

METADATA = {"classes": '["cat", "Straße"]', "hollowbone": "0"}


def convnet(seed: int = 0, width: int = 16) -> nn.Sequential:
    """Convolutions, batch normalisation with statistics of its own, a depthwise layer, a mean and a classifier."""
    torch.manual_seed(seed)
    network = nn.Sequential(
        nn.Conv2d(3, width, 3, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU6(),
        nn.Conv2d(width, width, 3, padding=1, groups=width, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU6(),
        nn.Conv2d(width, 4 * width, 1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(4 * width, 10),
    )
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, std=0.2)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    return network


def pictures(batch: int = 1, seed: int = 1, size: int = 16) -> Tensor:
    """Random inputs of `convnet`."""
    return torch.randn(batch, 3, size, size, generator=torch.Generator().manual_seed(seed))


def example(batch: int = 1) -> Example:
    """The example of `convnet`, its batch open."""
    return Example(args=(pictures(batch),), dynamic={0: {0: "batch"}})


class Awkward(nn.Module):
    """A keyword tensor, a list of tensors, a constant, dropout, and a dict of outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(6, 4)
        self.dropout = nn.Dropout(0.5)

    def forward(self, x: Tensor, pair: list[Tensor], *, shift: Tensor, scale: float = 1.0) -> dict[str, Tensor]:
        hidden = self.dropout(self.linear(x)) * scale + shift
        return {"logits": hidden + pair[0], "squared": (hidden * pair[1]) ** 2}


def awkward_example(batch: int = 1) -> Example:
    """Its example: the batch is one axis of four tensors."""
    generator = torch.Generator().manual_seed(2)

    def tensor(width: int) -> Tensor:
        return torch.randn(batch, width, generator=generator)

    return Example(
        args=(tensor(6), [tensor(4), tensor(4)]),
        kwargs={"shift": tensor(4), "scale": 3.0},
        dynamic={0: {0: "batch"}, 1: {0: "batch"}, "shift": {0: "batch"}},
    )
