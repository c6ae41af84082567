"""Where a training runs: one process on the CPU by itself, or whatever `accelerate` is configured for."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


def short_floats_pay(device: torch.device) -> bool:
    """Whether bfloat16 is quicker there: on GPUs, and on processors that multiply it. Elsewhere it costs six times."""
    return device.type != "cpu" or torch.ops.mkldnn._is_mkldnn_bf16_supported()


class Accelerator:
    """One process on the CPU: all that the loop asks of an accelerator, with torch alone.

    rank of count processes; main: the one that validates, saves and speaks.
    """

    device = torch.device("cpu")
    rank, count = 0, 1

    @property
    def main(self) -> bool:
        return self.rank == 0

    def prepare(self, network: nn.Module, optimiser: torch.optim.Optimizer) -> tuple[nn.Module, Any]:
        """The network as it is called in training, and the optimiser that steps it."""
        return network, optimiser

    def backward(self, loss: Tensor) -> None:
        loss.backward()

    def clip(self, network: nn.Module, most: float) -> None:
        """Scale the gradients down to a norm of `most`."""
        nn.utils.clip_grad_norm_(network.parameters(), most)

    def wait(self) -> None:
        """Until all processes are here."""


class Distributed(Accelerator):
    """Through `accelerate`: the GPU where there is one, several GPUs or machines under `accelerate launch`."""

    def __init__(self) -> None:
        import accelerate

        self._accelerator = accelerate.Accelerator()
        self.device = self._accelerator.device
        self.rank, self.count = self._accelerator.process_index, self._accelerator.num_processes

    def prepare(self, network: nn.Module, optimiser: torch.optim.Optimizer) -> tuple[nn.Module, Any]:
        return self._accelerator.prepare(network, optimiser)

    def backward(self, loss: Tensor) -> None:
        self._accelerator.backward(loss)

    def clip(self, network: nn.Module, most: float) -> None:
        self._accelerator.clip_grad_norm_(network.parameters(), most)

    def wait(self) -> None:
        self._accelerator.wait_for_everyone()
