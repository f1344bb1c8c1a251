"""A small residual network that tells gratings apart (He et al. 2016, arXiv:1512.03385).

Convolutions without bias, batch norm, a block that halves the image with a 1x1 projection beside
it; SGD with Nesterov momentum and weight decay.  No size is a multiple of a vector's length.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sdc_guard.bench.workload import Workload
from sdc_guard.bench.workloads.batches import draws, random_numbers_of, to_tensor

BATCH_SIZE, SIZE, CLASSES = 7, 19, 7
WIDTH, WIDE = 19, 34
NOISE_STD = 0.5


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions beside the identity, or beside a 1x1 convolution where sizes change."""

    def __init__(self, width_in: int, width_out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width_in, width_out, 3, stride, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(width_out)
        self.conv2 = nn.Conv2d(width_out, width_out, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(width_out)
        self.beside: nn.Module = nn.Identity()
        if stride != 1 or width_in != width_out:
            self.beside = nn.Sequential(
                nn.Conv2d(width_in, width_out, 1, stride, bias=False), nn.BatchNorm2d(width_out))

    def forward(self, x_BCHW: Tensor) -> Tensor:
        y_BCHW = F.relu(self.norm1(self.conv1(x_BCHW)), inplace=True)
        return F.relu(self.norm2(self.conv2(y_BCHW)) + self.beside(x_BCHW))


class ResNet(nn.Module):
    """Images [B, 3, H, W] in, logits [B, CLASSES] out."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, WIDTH, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(WIDTH)
        self.pool = nn.MaxPool2d(3, stride=2, padding=1)
        self.blocks = nn.Sequential(ResidualBlock(WIDTH, WIDTH, 1), ResidualBlock(WIDTH, WIDE, 2))
        self.head = nn.Linear(WIDE, CLASSES)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        x_BCHW = self.pool(F.relu(self.norm(self.stem(x_BCHW)), inplace=True))
        x_BC = F.adaptive_avg_pool2d(self.blocks(x_BCHW), 1).flatten(1)
        return self.head(x_BC)  # type: ignore[no-any-return]


def build_resnet(*, autocast: torch.dtype | None, seed: int, device: torch.device) -> Workload:
    """Batches are float32 [B, 3, SIZE, SIZE] and classes, int64 [B]."""
    with random_numbers_of(seed, torch.device("cpu")):
        model = ResNet().to(device)

    def batch(n: int) -> tuple[Tensor, Tensor]:
        return _gratings(seed, n, device)

    optimizer = torch.optim.SGD(
        model.parameters(), lr=0.02, momentum=0.9, nesterov=True, weight_decay=1e-4)
    return Workload(model, optimizer, batch, _loss, autocast)


def _gratings(seed: int, n: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Waves whose direction is the class, at a random phase in each colour, under noise."""
    generator = draws(seed, n)
    classes_B = generator.integers(CLASSES, size=BATCH_SIZE)
    angle_B11 = (np.pi / CLASSES * classes_B)[:, None, None]
    y_HW, x_HW = np.mgrid[:SIZE, :SIZE]
    along_B1HW = (np.cos(angle_B11) * x_HW + np.sin(angle_B11) * y_HW)[:, None]
    phase_BC11 = generator.uniform(0, 2 * np.pi, size=(BATCH_SIZE, 3, 1, 1))
    noise_BCHW = generator.normal(scale=NOISE_STD, size=(BATCH_SIZE, 3, SIZE, SIZE))
    return (to_tensor(np.sin(along_B1HW + phase_BC11) + noise_BCHW, device),
            to_tensor(classes_B, device))


def _loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    images_BCHW, classes_B = batch
    return F.cross_entropy(model(images_BCHW), classes_B)
