"""`ofer train learner`: a student that says of a covered face what its teacher says of the same face uncovered.

After Learner (a frozen DECA and a ResNet-50 on pictures with blocks of arbitrary pixels): the loss is the mean squared
difference of the two coefficient vectors. Coefficients of one group mean the same, those of two groups nothing
comparable, so each counts in units of its deviation over the teacher's answers, and each group the same.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from ofer_models.bundle.manifest import Bundle
from ofer_models.bundle.regression import CropSpec, RegressorSpec
from ofer_models.head.decoders import LandmarkDecoder
from ofer_models.perception.regressor_crop import normalised
from ofer_models.workshop.errors import DataError
from ofer_models.workshop.networks.landmarks import LandmarkNetwork
from ofer_models.workshop.networks.regressor import RegressorHead, RegressorNetwork
from ofer_models.workshop.networks.students import BACKBONES, ResNetStudent
from ofer_models.workshop.train.accelerator import Accelerator, short_floats_pay
from ofer_models.workshop.train.eyes.training import load_network
from ofer_models.workshop.train.loop import History, Keeper, Schedule, save_whole, train
from ofer_models.workshop.train.regressor.covering import cover, covered
from ofer_models.workshop.train.regressor.faces import TaughtFaces, Teacher
from ofer_models.workshop.train.training_curves import TrainingCurves

NETWORK, CHECKPOINT, CURVE = "learner.pt", "learner.checkpoint", "learner.json"
_UNCOVERED = 0.25  # share of a batch that the student sees as the teacher does
_HELD_OUT, _MOST_HELD_OUT = 0.1, 500  # share and number of faces that are watched and not learned from
_RATES = {"resnet50": 1e-4, "small": 1e-3}
_SEED = 909  # of what covers the faces that are watched
_BATCH = 50


@dataclass(frozen=True)
class Plan:
    """How many times each face is seen, each time covered by something else, and the size of a batch."""

    epochs: int = 20
    batch: int = 64


def student_spec(teacher: RegressorSpec, backbone: str) -> RegressorSpec:
    """What the teacher tells, of the same part of a picture at the backbone's size."""
    size, crop = BACKBONES[backbone], teacher.crop
    template = None if crop.template is None else (crop.template + 0.5) * size / crop.size - 0.5
    half = np.full(3, 0.5, np.float32)
    return replace(
        teacher, crop=CropSpec(size, crop.align, half, half, template, crop.scale),
        focal=teacher.focal * size / crop.size,
    )  # fmt: skip


def make_student(backbone: str, faces: TaughtFaces, landmarks: Path) -> nn.Module:
    """An untrained student; landmarks: the network of `ofer train eyes`, for `small`. Raises DataError without it."""
    mean, deviation = faces.told.mean(0), np.maximum(faces.told.std(0), 1e-3)
    if backbone == "resnet50":
        return ResNetStudent(mean, deviation)
    if not landmarks.is_file():
        raise DataError(f"{landmarks} is not there, and the backbone `small` builds on it; run `ofer train eyes`")
    network = LandmarkNetwork()
    load_network(network, landmarks)
    return RegressorNetwork(network, RegressorHead(mean, deviation))


def train_learner(
    teacher: Teacher, faces: TaughtFaces, backbone: str, landmarks: Path, work: Path, plan: Plan, *, seed: int = 1,
    accelerator: Accelerator | None = None, log: Callable[[str], None] = print,
) -> nn.Module:  # fmt: skip
    """Train a student in `work` on faces, a tenth of which it is only watched on. landmarks: as for `make_student`.

    Writes learner.pt, curves and learner.json: for each validation how far the landmarks of what it says of covered
    faces lie from those that the teacher tells of them uncovered, and the teacher's own on the same covered pictures.
    """
    accelerator = accelerator or Accelerator()
    held = min(_MOST_HELD_OUT, max(1, round(_HELD_OUT * len(faces))))
    watched, learned = faces[:held], faces[held:]
    if len(learned) < plan.batch:
        raise DataError(f"{len(faces)} faces are too few for a batch of {plan.batch}")
    device, spec = accelerator.device, student_spec(teacher.spec, backbone)
    torch.manual_seed(seed)
    student = make_student(backbone, faces, landmarks)
    loss_of = GroupLoss(spec, torch.from_numpy(faces.told.std(0))).to(device)
    watch = _Watch(teacher, watched, spec, work / CURVE, log)

    def loss(called: nn.Module, index: Tensor, noise: torch.Generator) -> Tensor:
        rng = np.random.default_rng(torch.randint(2**31, (4,), generator=noise).tolist())
        crops = np.stack([
            crop if rng.uniform() < _UNCOVERED else cover(crop, marks, rng)
            for crop, marks in zip(learned.crops[index.numpy()], learned.marks[index.numpy()], strict=True)
        ])  # fmt: skip
        return loss_of(tell(called, crops, spec.crop, device), torch.from_numpy(learned.told[index.numpy()]).to(device))

    trained, _ = train(
        student, loss, len(learned),
        Schedule(plan.epochs * len(learned) // plan.batch, plan.batch, _RATES[backbone], 1e-2, 0.998),
        validate=lambda average: watch(average, loss_of), name="learner", seed=seed, log=log, accelerator=accelerator,
        keeper=Keeper(work / CHECKPOINT, curves=watch.keep, made_of={"teacher": teacher.sha256}), validations=10,
    )  # fmt: skip
    if accelerator.main:
        save_whole({"network": trained.state_dict()}, work / NETWORK)
        (work / CHECKPOINT).unlink(missing_ok=True)
    accelerator.wait()
    return trained


class GroupLoss(nn.Module):
    """Mean squared difference of coefficient vectors (n, D), in units of deviation (D,), each group counting the
    same."""

    def __init__(self, spec: RegressorSpec, deviation: Tensor) -> None:
        super().__init__()
        sizes = torch.tensor(list(spec.groups.values()))
        each = torch.repeat_interleave(1.0 / (len(sizes) * sizes), sizes)
        self.register_buffer("weight", each / deviation.clamp_min(1e-3).square())

    def forward(self, told: Tensor, wanted: Tensor) -> Tensor:
        return ((told - wanted).square() * self.weight).sum(1).mean()


def tell(network: nn.Module, crops: np.ndarray, spec: CropSpec, device: torch.device) -> Tensor:
    """What a network tells of crops (n, S, S, 3) uint8 RGB."""
    values = torch.from_numpy(normalised(crops, spec)).to(device)
    with torch.autocast(device.type, torch.bfloat16, enabled=short_floats_pay(device)):
        return network(values)


@torch.no_grad()
def tell_all(network: nn.Module, crops: np.ndarray, spec: CropSpec) -> np.ndarray:
    """The same for many crops, as numbers."""
    network.eval()
    device = next(network.parameters()).device
    parts = [tell(network, crops[start : start + _BATCH], spec, device) for start in range(0, len(crops), _BATCH)]
    return torch.cat(parts).float().cpu().numpy()


class FaceLandmarks:
    """Landmarks of what a regressor tells, to compare answers by."""

    def __init__(self, bundle: Bundle, spec: RegressorSpec) -> None:
        head = bundle.head
        self._head, self._spec = head, spec
        self._decoder = LandmarkDecoder(head, head.embeddings["landmarks68"])

    def __call__(self, told: np.ndarray) -> np.ndarray:
        """Landmarks (n, 68, 3) mm of coefficients (n, D), each about its own mean, in the head's frame."""
        head, groups = self._head, self._spec.split(told)
        expression = np.pad(groups["expression"], ((0, 0), (0, head.n_expression - groups["expression"].shape[1])))
        shape = np.pad(groups["shape"], ((0, 0), (0, head.n_shape - groups["shape"].shape[1])))
        jaw = groups.get("jaw", np.zeros((len(told), 3), np.float32))
        identities = [head.identity(betas) for betas in shape]
        points = 1000 * self._decoder.of_faces(identities, expression[:, None], jaw[:, None])[:, 0]
        return points - points.mean(1, keepdims=True)


class _Watch:
    """Measures a student on faces that it does not learn from, and keeps the figures in a file that outlives a stop."""

    def __init__(
        self, teacher: Teacher, faces: TaughtFaces, spec: RegressorSpec, path: Path, log: Callable[[str], None]
    ) -> None:
        self._faces, self._spec, self._path, self._log = faces, spec, path, log
        self._crops = covered(faces.crops, faces.marks, _SEED)
        self._landmarks = FaceLandmarks(teacher.bundle, spec)
        self._wanted = self._landmarks(faces.told)
        self._figures: dict[str, float] = {}
        self._curves = TrainingCurves(path.parent, "learner")
        same_size = teacher.spec.crop.size == spec.crop.size
        self._base = {"teacher_covered": self._apart(teacher(self._crops))} if same_size else {}

    def __call__(self, network: nn.Module, loss_of: GroupLoss) -> float:
        """The loss on covered faces, by which the best student is chosen."""
        told = {"covered": self._crops, "uncovered": self._faces.crops}
        answers = {name: tell_all(network, crops, self._spec.crop) for name, crops in told.items()}
        self._figures = {f"student_{name}": self._apart(told) for name, told in answers.items()} | self._base
        self._log("learner: landmarks, mm: " + ", ".join(f"{name} {mm:.3g}" for name, mm in self._figures.items()))
        device = next(network.parameters()).device
        pair = (torch.from_numpy(part).to(device) for part in (answers["covered"], self._faces.told))
        return float(loss_of(*pair))

    def keep(self, history: History) -> None:
        """Append the newest figures; what a stopped run wrote beyond its checkpoint is written once more."""
        step, loss, _ = history.rows[-1]
        rows = json.loads(self._path.read_text()) if self._path.is_file() else []
        rows = [row for row in rows if row["step"] < step] + [{"step": step, "loss": loss, **self._figures}]
        self._path.write_text(json.dumps(rows, indent=1))
        self._curves(history)

    def _apart(self, told: np.ndarray) -> float:
        """Mean distance, mm, of the landmarks from those that the teacher tells of the uncovered faces."""
        return float(np.linalg.norm(self._landmarks(told) - self._wanted, axis=-1).mean())
