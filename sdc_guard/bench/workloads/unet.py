"""A small denoising U-Net, as in diffusion models (Ho et al. 2020, arXiv:2006.11239).

Group norm in fp32, SiLU, a strided convolution and a pool on the way down, attention at the bottom,
interpolation and a transposed convolution on the way up, the step of the diffusion as sines and
cosines.  It predicts the noise, which is drawn by torch from a generator of the batch's own; AdamW.
"""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sdc_guard.bench.workload import Workload
from sdc_guard.bench.workloads.batches import draws, random_numbers_of, to_tensor

BATCH_SIZE, HEIGHT, WIDTH = 3, 15, 13
NARROW, WIDE = 18, 30
GROUPS, HEADS = 6, 3
TIME_WIDTH = 22
DIFFUSION_STEPS = 1000

Batch = tuple[Tensor, Tensor, int]
"""Images, float32 [B, 3, HEIGHT, WIDTH]; diffusion steps, int64 [B]; the seed of the noise."""


class GroupNorm32(nn.GroupNorm):
    """Computes in fp32, and returns its input's dtype."""

    def forward(self, x_BCHW: Tensor) -> Tensor:
        return super().forward(x_BCHW.float()).to(x_BCHW.dtype)


class TimedBlock(nn.Module):
    """A residual block, shifted by the diffusion step."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = GroupNorm32(GROUPS, width), GroupNorm32(GROUPS, width)
        self.conv1 = nn.Conv2d(width, width, 3, padding=1)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)
        self.time = nn.Linear(TIME_WIDTH, width)

    def forward(self, x_BCHW: Tensor, time_BE: Tensor) -> Tensor:
        y_BCHW = self.conv1(F.silu(self.norm1(x_BCHW))) + self.time(time_BE)[:, :, None, None]
        return x_BCHW + self.conv2(F.silu(self.norm2(y_BCHW)))  # type: ignore[no-any-return]


class PixelAttention(nn.Module):
    """Every pixel attends to every pixel, in :data:`HEADS` heads."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = GroupNorm32(GROUPS, width)
        self.qkv, self.proj = nn.Conv2d(width, 3 * width, 1), nn.Conv2d(width, width, 1)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        B, C, H, W = x_BCHW.shape
        qkv_B3hdP = self.qkv(self.norm(x_BCHW)).view(B, 3, HEADS, C // HEADS, H * W)
        q, k, v = (part.transpose(-1, -2) for part in qkv_B3hdP.unbind(1))
        y_BhPd = F.scaled_dot_product_attention(q, k, v)
        return x_BCHW + self.proj(y_BhPd.transpose(-1, -2).reshape(B, C, H, W))  # type: ignore[no-any-return]


class UNet(nn.Module):
    """Noisy images [B, 3, H, W] and steps [B] in, the noise in them out."""

    def __init__(self) -> None:
        super().__init__()
        self.time = nn.Linear(TIME_WIDTH, TIME_WIDTH)
        self.into = nn.Conv2d(3, NARROW, 3, padding=1)
        self.down = nn.Conv2d(NARROW, WIDE, 3, stride=2, padding=1)
        self.block = TimedBlock(WIDE)
        self.attention = PixelAttention(WIDE)
        self.up = nn.ConvTranspose2d(WIDE, NARROW, 3, stride=2, padding=1)
        self.norm = GroupNorm32(GROUPS, 2 * NARROW)
        self.out = nn.Conv2d(2 * NARROW, 3, 3, padding=1)

    def forward(self, x_BCHW: Tensor, steps_B: Tensor) -> Tensor:
        time_BE = F.silu(self.time(_sines(steps_B)))
        high = self.into(x_BCHW)
        low = self.block(self.down(high), time_BE)
        bottom = self.attention(F.avg_pool2d(low, 2, ceil_mode=True))
        low = low + F.interpolate(bottom, size=low.shape[-2:], mode="nearest")
        joined = torch.cat([high, self.up(low)], dim=1)
        return self.out(F.silu(self.norm(joined)))  # type: ignore[no-any-return]


def build_unet(*, autocast: torch.dtype | None, seed: int, device: torch.device) -> Workload:
    """Batches are :data:`Batch`."""
    with random_numbers_of(seed, torch.device("cpu")):
        model = UNet().to(device)

    def batch(n: int) -> Batch:
        return _blobs(seed, n, device)

    # One kernel call for all parameters, as torch chooses by itself on a GPU.
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, foreach=True)
    return Workload(model, optimizer, batch, _loss, autocast)


def _sines(steps_B: Tensor) -> Tensor:
    """Sines and cosines of the step at falling frequencies, float32 [B, TIME_WIDTH]."""
    half = TIME_WIDTH // 2
    exponents_E = torch.arange(half, dtype=torch.float32, device=steps_B.device) / half
    angle_BE = steps_B[:, None].float() * torch.exp(-math.log(10_000) * exponents_E)
    return torch.cat([angle_BE.sin(), angle_BE.cos()], dim=1)


def _blobs(seed: int, n: int, device: torch.device) -> Batch:
    """One bright spot of a random colour at a random place in each image."""
    generator = draws(seed, n)
    y_HW, x_HW = np.mgrid[:HEIGHT, :WIDTH]
    centre_y, centre_x = generator.uniform(2, 11, size=(2, BATCH_SIZE, 1, 1, 1))
    colour_BC11 = generator.uniform(-1, 1, size=(BATCH_SIZE, 3, 1, 1))
    images = colour_BC11 * np.exp(-((y_HW - centre_y) ** 2 + (x_HW - centre_x) ** 2) / 8)
    steps_B = generator.integers(DIFFUSION_STEPS, size=BATCH_SIZE)
    return to_tensor(images, device), to_tensor(steps_B, device), int(generator.integers(2**32))


def _loss(model: nn.Module, batch: Batch) -> Tensor:
    images_BCHW, steps_B, noise_seed = batch
    device = images_BCHW.device
    own = torch.Generator(device).manual_seed(noise_seed)
    noise_BCHW = torch.randn(images_BCHW.shape, generator=own, device=device)
    # Share of the image's variance that is left after t of T steps: cos^2(pi t / 2T) (Nichol and
    # Dhariwal 2021, arXiv:2102.09672, section 3.2, without their offset).
    angle_B111 = (steps_B.float() * (math.pi / 2 / DIFFUSION_STEPS)).view(-1, 1, 1, 1)
    noisy_BCHW = angle_B111.cos() * images_BCHW + angle_B111.sin() * noise_BCHW
    return F.mse_loss(model(noisy_BCHW, steps_B).float(), noise_BCHW)
