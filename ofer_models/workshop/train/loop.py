"""What every training here shares: batches, a one-cycle rate, an average of the weights, and going on after a stop.

A stopped training goes on from its last checkpoint to the same weights, bit by bit, that it would have had without the
stop: a checkpoint holds the network, its average, the optimiser, the rate, every random generator and the place in the
epoch.
"""

from __future__ import annotations

import copy
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ofer_models.files.refusal import one_line
from ofer_models.workshop.errors import DataError
from ofer_models.workshop.made_of import refuse_other
from ofer_models.workshop.official.pickle_machine import UnsafePickleError
from ofer_models.workshop.official.torch_tensors import load_torch
from ofer_models.workshop.train.accelerator import Accelerator

_BEGIN_ANEW = "`--again` sets it aside and begins anew"
_PARTS = {"plan", "step", "running", "best_loss", "rows", "network", "average", "best", "optimiser", "rate", "batches",
          "noise", "torch", "cuda"}  # fmt: skip
Loss = Callable[[nn.Module, Tensor, torch.Generator], Tensor]  # network, indices (B,), noise -> loss


@dataclass
class Schedule:
    """steps of batch samples each, peak learning rate, weight decay, the decay of the weights' moving average, AdamW's
    betas, and whether the rate falls from its peak at once, as a cosine, instead of rising to it in one cycle.
    """

    steps: int
    batch: int
    rate: float
    decay: float = 1e-4
    average: float = 0.999
    betas: tuple[float, float] = (0.9, 0.999)
    cosine: bool = False

    def told(self) -> dict[str, Any]:
        """What checkpoints and records say of it, as JSON has it; the usual betas and cycle go without saying."""
        usual = {"betas": type(self).betas, "cosine": type(self).cosine}
        unusual = {name: value for name, value in asdict(self).items() if usual.get(name, ...) != value}
        return {name: list(value) if isinstance(value, tuple) else value for name, value in unusual.items()}


@dataclass
class History:
    """Loss by step, as (step, training loss, validation loss) rows."""

    rows: list[tuple[int, float, float]] = field(default_factory=list)


@dataclass(frozen=True)
class Keeper:
    """Where a training's checkpoint lies, how many seconds apart it is written, and what shows the history's curves
    whenever it has grown. made_of: what else a checkpoint must have been made of to go on from it.
    """

    path: Path
    seconds: float = 60.0
    curves: Callable[[History], None] = lambda history: None
    made_of: dict[str, Any] = field(default_factory=dict)

    def load(self, plan: dict[str, Any]) -> dict[str, Any] | None:
        """The state of a training of the same plan, if there is one.

        Raises DataError with one line for a checkpoint of another plan (with both values), or that is none.
        """
        if not self.path.is_file():
            return None
        try:
            state = load_torch(self.path)
        except UnsafePickleError as error:
            raise DataError(f"{self.path.parent}: {error}; {_BEGIN_ANEW}") from None
        if not isinstance(state, dict) or _PARTS - state.keys():
            raise DataError(f"{self.path} is no checkpoint of a training; {_BEGIN_ANEW}")
        refuse_other(self.path, state["plan"], plan, _BEGIN_ANEW)
        return state

    def save(self, state: dict[str, Any]) -> None:
        """Write a state so that a stop at any moment leaves the old or the new one whole."""
        save_whole(state, self.path)

    def clear(self) -> None:
        """Remove the checkpoint, once the result itself is saved."""
        self.path.unlink(missing_ok=True)


def save_whole(content: Any, path: Path) -> None:
    """torch.save that a stop cannot leave half done."""
    partial = path.with_suffix(".partial")
    torch.save(content, partial)
    os.replace(partial, path)


def load_whole(network: nn.Module, path: Path, what: str) -> dict[str, int]:
    """Load a trained network's weights; returns from how many pictures and steps it learned. what: a file of its kind,
    as the message of a DataError names it."""
    try:
        state = load_torch(path)
        network.load_state_dict(state["network"])
        return {name: int(state[name]) for name in ("pictures", "steps")}
    except UnsafePickleError as error:
        raise DataError(f"{path.parent}: {error}; `--again` trains it anew") from None
    except (KeyError, TypeError, AttributeError, ValueError, RuntimeError) as error:
        raise DataError(f"{path} is no {what} ({one_line(error)}); `--again` trains it anew") from None


class Batches(Iterator[Tensor]):
    """Index tensors (size,) that walk through shuffled epochs of `count` samples, without end."""

    def __init__(self, count: int, size: int, generator: torch.Generator) -> None:
        self.count, self.size, self._generator = count, size, generator
        self._order, self._at = torch.randperm(count, generator=generator), 0

    def __next__(self) -> Tensor:
        if self._at + self.size > self.count:
            self._order, self._at = torch.randperm(self.count, generator=self._generator), 0
        index = self._order[self._at : self._at + self.size]
        self._at += self.size
        return index

    def state(self) -> dict[str, Any]:
        return {"order": self._order, "at": self._at, "generator": self._generator.get_state()}

    def restore(self, state: dict[str, Any]) -> None:
        self._order, self._at = state["order"], state["at"]
        self._generator.set_state(state["generator"])


def train(
    network: nn.Module,
    loss: Loss,
    count: int,
    schedule: Schedule,
    *,
    validate: Callable[[nn.Module], float],
    name: str,
    seed: int = 0,
    log: Callable[[str], None] = print,
    accelerator: Accelerator | None = None,
    keeper: Keeper | None = None,
    validations: int = 10,
) -> tuple[nn.Module, History]:
    """Minimise loss(network, indices into the training set, noise) over the network's weights; returns the averaged
    network that validated best, on the CPU, and the history.

    `noise` is the generator to draw all randomness from. `validate` gets the averaged network; it runs `validations`
    times over the training, in the main process alone: in the others the result is the average of the last step.

    keeper: a training that was stopped goes on from there.
    """
    accelerator = accelerator or Accelerator()
    run = _Training(network, schedule, count, seed, accelerator)
    plan = {"schedule": schedule.told(), "count": count, "seed": seed, "processes": accelerator.count}
    plan |= keeper.made_of if keeper else {}
    if keeper and (state := keeper.load(plan)):
        try:
            run.restore(state)
        except (KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:
            raise DataError(f"{keeper.path} does not fit this training ({one_line(error)}); {_BEGIN_ANEW}") from None
        log(f"{name}: goes on from step {run.step} of {schedule.steps}")
    every, started, first = max(1, schedule.steps // validations), time.monotonic(), run.step
    saved = started
    while run.step < schedule.steps:
        run.advance(loss)
        if run.step % every == 0 or run.step == schedule.steps:
            done = (run.step - 1) % every + 1
            mean, held_out = run.running / done, run.check(validate)
            left = (time.monotonic() - started) / (run.step - first) * (schedule.steps - run.step)
            if accelerator.main:
                log(
                    f"{name}: step {run.step}/{schedule.steps}, loss {mean:.4f}, held out {held_out:.4f}, "
                    f"{left:.0f} s left"
                )
            run.history.rows.append((run.step, mean, held_out))
            run.running = 0.0
            if keeper and accelerator.main:
                keeper.curves(run.history)
        if keeper and accelerator.main and time.monotonic() - saved >= keeper.seconds:
            keeper.save({"plan": plan, **run.state()})
            saved = time.monotonic()
    accelerator.wait()
    return run.best.cpu(), run.history


class _Training:
    """All that changes while a network is trained."""

    def __init__(self, network: nn.Module, schedule: Schedule, count: int, seed: int, accelerator: Accelerator) -> None:
        self.schedule, self.accelerator, self.network = schedule, accelerator, network.to(accelerator.device)
        optimiser = torch.optim.AdamW(
            network.parameters(), lr=schedule.rate, betas=schedule.betas, weight_decay=schedule.decay
        )
        cycle: torch.optim.lr_scheduler.LRScheduler
        if schedule.cosine:
            cycle = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, schedule.steps)
        else:
            cycle = torch.optim.lr_scheduler.OneCycleLR(
                optimiser, schedule.rate, total_steps=schedule.steps, pct_start=0.1
            )
        self.rate = cycle
        self.average = copy.deepcopy(network).eval()
        self.called, self.optimiser = accelerator.prepare(network, optimiser)
        self.history, self.running, self.step = History(), 0.0, 0
        self.best, self.best_loss = self.average, float("inf")
        network.train()
        self.batches = Batches(count, schedule.batch, torch.Generator().manual_seed(seed))
        # Processes see other samples and draw other noise for them.
        self.noise = torch.Generator().manual_seed(seed + 100_003 * accelerator.rank)

    def advance(self, loss: Loss) -> None:
        """One step."""
        index = next(self.batches)[self.accelerator.rank :: self.accelerator.count]
        value = loss(self.called, index, self.noise)
        self.optimiser.zero_grad(set_to_none=True)
        self.accelerator.backward(value)
        self.accelerator.clip(self.called, 1.0)
        self.optimiser.step()
        self.rate.step()
        self.step += 1
        _blend(self.average, self.network, min(self.schedule.average, self.step / (self.step + 10)))
        self.running += value.item()

    @torch.no_grad()
    def check(self, validate: Callable[[nn.Module], float]) -> float:
        """The average's held-out figure; keeps the best average. Elsewhere than in the main process: NaN."""
        if not self.accelerator.main:
            self.best = self.average
            return float("nan")
        held_out = validate(self.average)
        if held_out < self.best_loss:
            self.best, self.best_loss = copy.deepcopy(self.average), held_out
        return held_out

    def state(self) -> dict[str, Any]:
        cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
        return {
            "step": self.step, "running": self.running, "best_loss": self.best_loss,
            "rows": [list(row) for row in self.history.rows],
            "network": self.network.state_dict(), "average": self.average.state_dict(),
            "best": self.best.state_dict(), "optimiser": self.optimiser.state_dict(), "rate": self.rate.state_dict(),
            "batches": self.batches.state(), "noise": self.noise.get_state(), "torch": torch.get_rng_state(),
            "cuda": cuda,
        }  # fmt: skip

    def restore(self, state: dict[str, Any]) -> None:
        self.step, self.running, self.best_loss = state["step"], state["running"], state["best_loss"]
        self.history.rows = [(int(step), *losses) for step, *losses in state["rows"]]
        self.network.load_state_dict(state["network"])
        self.average.load_state_dict(state["average"])
        self.best = copy.deepcopy(self.average)
        self.best.load_state_dict(state["best"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.rate.load_state_dict(state["rate"])
        self.batches.restore(state["batches"])
        if self.accelerator.rank == 0:
            self.noise.set_state(state["noise"])
        else:  # noise of a step, not of a history: the main process alone keeps its own
            self.noise.manual_seed(self.noise.initial_seed() + self.step)
        torch.set_rng_state(state["torch"])
        if state["cuda"] and torch.cuda.is_available():
            torch.cuda.set_rng_state_all(state["cuda"])


@torch.no_grad()
def _blend(average: nn.Module, network: nn.Module, keep: float) -> None:
    for ours, theirs in zip(average.state_dict().values(), network.state_dict().values(), strict=True):
        if ours.dtype.is_floating_point:
            ours.lerp_(theirs, 1 - keep)
        else:
            ours.copy_(theirs)
