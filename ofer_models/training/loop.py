"""What every training here shares: batches, a one-cycle rate, an average of the weights, a line of progress."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn


@dataclass
class Schedule:
    """steps of batch samples each, peak learning rate, weight decay, and the decay of the weights' moving average."""

    steps: int
    batch: int
    rate: float
    decay: float = 1e-4
    average: float = 0.999


@dataclass
class History:
    """Loss by step, as (step, training loss, validation loss) rows."""

    rows: list[tuple[int, float, float]] = field(default_factory=list)


def batches(count: int, size: int, steps: int, generator: torch.Generator) -> Iterator[Tensor]:
    """`steps` index tensors (size,), walking through shuffled epochs."""
    order, at = torch.randperm(count, generator=generator), 0
    for _ in range(steps):
        if at + size > count:
            order, at = torch.randperm(count, generator=generator), 0
        yield order[at : at + size]
        at += size


def train(
    network: nn.Module,
    loss: Callable[[Tensor], Tensor],
    count: int,
    schedule: Schedule,
    *,
    validate: Callable[[nn.Module], float],
    name: str,
    seed: int = 0,
    log: Callable[[str], None] = print,
) -> tuple[nn.Module, History]:
    """Minimise loss(indices into the training set) over the network's weights; returns averaged network and history.

    `validate` gets the averaged network; it runs ten times over the training.
    """
    optimiser = torch.optim.AdamW(network.parameters(), lr=schedule.rate, weight_decay=schedule.decay)
    rate = torch.optim.lr_scheduler.OneCycleLR(optimiser, schedule.rate, total_steps=schedule.steps, pct_start=0.1)
    average = copy.deepcopy(network).eval()
    history, started, running = History(), time.monotonic(), 0.0
    best, best_loss = average, float("inf")
    every = max(1, schedule.steps // 10)
    network.train()
    generator = torch.Generator().manual_seed(seed)
    for step, index in enumerate(batches(count, schedule.batch, schedule.steps, generator), start=1):
        value = loss(index)
        optimiser.zero_grad(set_to_none=True)
        value.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimiser.step()
        rate.step()
        _blend(average, network, min(schedule.average, step / (step + 10)))
        running += value.item()
        if step % every == 0 or step == schedule.steps:
            with torch.no_grad():
                held_out = validate(average)
            done = (step - 1) % every + 1
            history.rows.append((step, running / done, held_out))
            if held_out < best_loss:
                best, best_loss = copy.deepcopy(average), held_out
            left = (time.monotonic() - started) / step * (schedule.steps - step)
            log(
                f"{name}: step {step}/{schedule.steps}, loss {running / done:.4f}, held out {held_out:.4f}, "
                f"{left:.0f} s left"
            )
            running = 0.0
    return best, history


@torch.no_grad()
def _blend(average: nn.Module, network: nn.Module, keep: float) -> None:
    for ours, theirs in zip(average.state_dict().values(), network.state_dict().values(), strict=True):
        if ours.dtype.is_floating_point:
            ours.lerp_(theirs, 1 - keep)
        else:
            ours.copy_(theirs)
