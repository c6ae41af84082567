"""The training side of the diffusion, in torch: noising, the regression target's loss, and the way back to x0."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ofer_models.runtime.schedule import NoiseSchedule


class ForwardProcess(nn.Module):
    """A schedule's tables as buffers, so that they follow the network to its device."""

    def __init__(self, schedule: NoiseSchedule | None = None) -> None:
        super().__init__()
        schedule = schedule or NoiseSchedule()
        self.register_buffer("alpha", torch.tensor(schedule.alpha, dtype=torch.float32), persistent=False)
        self.register_buffer("sigma", torch.tensor(schedule.sigma, dtype=torch.float32), persistent=False)

    def random_steps(self, count: int, generator: torch.Generator | None = None) -> Tensor:
        """Steps (count,) int64, uniform over the schedule."""
        return torch.randint(len(self.alpha), (count,), generator=generator, device=self.alpha.device)

    def add_noise(self, x0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """x_t (B, D) = alpha_t x0 + sigma_t noise; the network learns to return `noise` from it."""
        return self.alpha[t, None] * x0 + self.sigma[t, None] * noise

    def clean(self, x_t: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """x0 (B, D) that x_t and a (predicted) noise imply: the inverse of `add_noise`."""
        return (x_t - self.sigma[t, None] * noise) / self.alpha[t, None]
