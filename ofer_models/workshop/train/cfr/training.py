"""`ofer train cfr --stage 1|2`: a regressor learns to see through what hides a face, in CFR-GAN's two stages.

Stage 1 fits pictures with synthesised occlusions to landmarks and, where the head has an albedo, to the pixels of the
skin. Stage 2 is a student of what stage 1 made: the teacher sees the clean picture, the student the occluded one.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ofer_models.workshop.train.accelerator import Accelerator, short_floats_pay
from ofer_models.workshop.train.cfr import augment, losses
from ofer_models.workshop.train.cfr.face import TorchFace
from ofer_models.workshop.train.cfr.pictures import CleanFaces
from ofer_models.workshop.train.cfr.skin import skin_by_colour
from ofer_models.workshop.train.loop import History, Keeper, Schedule, train
from ofer_models.workshop.train.training_curves import TrainingCurves

UNIT = 224  # px of the crop that the weights of landmark errors are made for
_BATCH = 50  # of a validation
_HELD_OUT_SEED = 779
# Of a picture, what the recognition network sees: rows from, to, columns from, to; its input's side.
_FACE = (15 / 224, 1 - 40 / 224, 15 / 224, 1 - 15 / 224)
_RECOGNISED = 112
Skin = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Plan:
    """Of a stage: times that each picture is seen, pictures a step, the rate at its beginning, and how often the
    training is looked at."""

    epochs: int
    batch: int
    rate: float
    validations: int = 10

    @classmethod
    def of_stage(cls, stage: int) -> Plan:
        """CFR-GAN's: fine-tuning of a network that knows faces."""
        return cls(50, 48, 2e-6) if stage == 1 else cls(5, 32, 1e-6)

    def schedule(self, count: int) -> Schedule:
        steps = max(1, self.epochs * count // self.batch)
        return Schedule(steps, min(self.batch, count), self.rate, 1e-2, betas=(0.5, 0.999), cosine=True)


@dataclass(frozen=True)
class Learner:
    """A regressor in training. network: crops to coefficients (B, D) and four feature maps, from early to late; face:
    what its coefficients mean.
    """

    network: nn.Module
    face: TorchFace

    def prepared(self, pictures: Tensor) -> Tensor:
        """Pictures (B, S, S, 3) uint8 RGB as the network wants them (B, 3, S, S)."""
        crop = self.face.spec.crop
        ordered = pictures if crop.channels == "rgb" else pictures.flip(-1)
        mean, deviation = (torch.tensor(np.asarray(part), dtype=torch.float32, device=pictures.device)
                           for part in (crop.mean, crop.deviation))  # fmt: skip
        return ((ordered.float() / 255 - mean) / deviation).permute(0, 3, 1, 2)


def train_stage(
    stage: int, learner: Learner, learned: CleanFaces, held_out: CleanFaces, work: Path, plan: Plan, *, seed: int = 1,
    skin: Skin = skin_by_colour, recognition: nn.Module | None = None, made_of: dict[str, str] | None = None,
    accelerator: Accelerator | None = None, log: Callable[[str], None] = print,
) -> nn.Module:  # fmt: skip
    """Train the learner's network and return the average of its weights that saw held-out occluded faces best.

    In `work`: curves, figures by step (cfr1.json, cfr2.json) and a checkpoint that a stopped run goes on from.
    skin: where pictures show skin. recognition: a face recognition network, RGB crops in -1..1 to features.
    made_of: what else a checkpoint must have been made of, such as the network at the beginning.
    """
    accelerator = accelerator or Accelerator()
    name, device = f"cfr{stage}", accelerator.device
    work.mkdir(parents=True, exist_ok=True)
    face = learner.face.to(device)
    if stage == 1:
        if not face.lit:
            log(f"{name}: no albedo or light: without the terms of pixels, reflectance, light and identity")
        elif recognition is None:
            log(f"{name}: no recognition network: without the term of identity")
        step = _FirstStage(learner, learned, skin, recognition.to(device).eval() if recognition else None)
    else:
        teacher = copy.deepcopy(learner.network).to(device).eval().requires_grad_(False)
        step = _SecondStage(learner, learned, teacher)
    figures: list[dict[str, float]] = []

    def loss(called: nn.Module, index: Tensor, noise: torch.Generator) -> Tensor:
        rng = np.random.default_rng(torch.randint(2**31, (4,), generator=noise).tolist())
        return step(called, index.numpy(), rng, device)

    def validate(average: nn.Module) -> float:
        figures.append(figures_of(learner, average, held_out))
        log(f"{name}: " + ", ".join(f"{key} {value:.3f}" for key, value in figures[-1].items()))
        return figures[-1]["nme_occluded"]

    curves = TrainingCurves(work, name)

    def keep(history: History) -> None:
        curves(history)
        rows = _rows(work / f"{name}.json", history.rows[-1][0])
        rows.append({"step": history.rows[-1][0], "loss": history.rows[-1][1], **figures[-1]})
        (work / f"{name}.json").write_text(json.dumps(rows, indent=1))

    made = {"stage": stage, "learned": learned.digest(), "held_out": held_out.digest()} | (made_of or {})
    trained, _ = train(
        learner.network, loss, len(learned), plan.schedule(len(learned)), validate=validate, name=name, seed=seed,
        log=log, accelerator=accelerator, validations=plan.validations,
        keeper=Keeper(work / f"{name}.checkpoint", curves=keep, made_of=made),
    )  # fmt: skip
    return trained


class _FirstStage:
    """The loss of a step of stage 1."""

    def __init__(self, learner: Learner, faces: CleanFaces, skin: Skin, recognition: nn.Module | None) -> None:
        self._learner, self._faces, self._skin, self._recognition = learner, faces, skin, recognition

    def __call__(self, called: nn.Module, index: np.ndarray, rng: np.random.Generator, device: torch.device) -> Tensor:
        columns = zip(*(augment.first_stage(*self._faces.picture(int(i)), rng) for i in index), strict=True)
        seen, clean, marks = (torch.from_numpy(np.stack(column)).to(device) for column in columns)
        coefficients, _ = _run(self._learner, called, seen)
        return losses.weighed(self.terms(coefficients, clean, marks.float()), losses.STAGE1)

    def terms(self, coefficients: Tensor, clean: Tensor, marks: Tensor) -> dict[str, Tensor]:
        """By name, for clean pictures (B, S, S, 3) uint8 with landmarks (B, 68, 2) px."""
        face = self._learner.face
        told, placed, scale = face.split(coefficients), face(coefficients), UNIT / face.size
        terms = {
            "coefficients": losses.sizes(told),
            "landmarks": losses.squared_landmarks(scale * placed.landmarks, scale * marks),
        }
        if face.lit:
            picture = clean.permute(0, 3, 1, 2).float() / 255
            drawn, there = face.picture(placed)
            drawn = torch.where(there[:, None], drawn.permute(0, 3, 1, 2), picture)
            terms |= {
                "photometric": losses.photometric(picture, drawn, self._skin(picture, there)),
                "reflectance": losses.reflectance(placed.colours, face.skin), "light": losses.greyness(told["light"]),
            }  # fmt: skip
            if self._recognition is not None:
                features = (self._recognition(_recognised(part)) for part in (drawn, picture))
                terms["identity"] = losses.unlikeness(*features)
        return terms


class _SecondStage:
    """The loss of a step of stage 2."""

    def __init__(self, learner: Learner, faces: CleanFaces, teacher: nn.Module) -> None:
        self._learner, self._faces, self._teacher = learner, faces, teacher

    def __call__(self, called: nn.Module, index: np.ndarray, rng: np.random.Generator, device: torch.device) -> Tensor:
        columns = zip(*(augment.second_stage(*self._faces.picture(int(i)), rng) for i in index), strict=True)
        seen, clean = (torch.from_numpy(np.stack(column)).to(device) for column in columns)
        face, scale = self._learner.face, UNIT / self._learner.face.size
        coefficients, maps = _run(self._learner, called, seen)
        with torch.no_grad():
            taught, teachers = _run(self._learner, self._teacher, clean)
        marks, true = (scale * face(told).landmarks for told in (coefficients, taught))
        terms = losses.distillation(maps, teachers, face.split(coefficients), face.split(taught), marks, true)
        return losses.weighed(terms, losses.STAGE2)


@torch.no_grad()
def figures_of(learner: Learner, network: nn.Module, faces: CleanFaces) -> dict[str, float]:
    """Normalised mean error of the 68 landmarks in % of their box, of clean pictures and of the same ones occluded,
    which are covered in the same way every time."""
    device, errors = next(network.parameters()).device, {"nme_clean": [], "nme_occluded": []}
    face = learner.face.to(device)
    for start in range(0, len(faces), _BATCH):
        rows = range(start, min(start + _BATCH, len(faces)))
        clean, marks, given = zip(*(faces.picture(row) for row in rows), strict=True)
        hidden = [
            augment.covered(picture, points, np.random.default_rng([_HELD_OUT_SEED, row])) if own is None else own
            for row, picture, points, own in zip(rows, clean, marks, given, strict=True)
        ]
        true = np.stack(marks)
        size = np.sqrt(np.ptp(true, axis=1).prod(1))
        for name, pictures in (("nme_clean", clean), ("nme_occluded", hidden)):
            crops = learner.prepared(torch.from_numpy(np.stack(pictures)).to(device))
            found = face(network(crops)[0]).landmarks.cpu().numpy()
            errors[name].append(100 * np.linalg.norm(found - true, axis=-1).mean(1) / size)
    return {name: float(np.concatenate(values).mean()) for name, values in errors.items()}


def _run(learner: Learner, network: nn.Module, pictures: Tensor) -> tuple[Tensor, list[Tensor]]:
    device = pictures.device
    with torch.autocast(device.type, torch.bfloat16, enabled=short_floats_pay(device)):
        coefficients, *maps = network(learner.prepared(pictures))
    return coefficients.float(), [part.float() for part in maps]


def _recognised(pictures: Tensor) -> Tensor:
    """What a recognition network sees of pictures (B, 3, S, S) in 0..1."""
    size = pictures.shape[-1]
    top, bottom, left, right = (round(share * size) for share in _FACE)
    part = pictures[:, :, top:bottom, left:right]
    return 2 * F.interpolate(part, (_RECOGNISED,) * 2, mode="bilinear", align_corners=True) - 1


def _rows(path: Path, before: int) -> list[dict[str, float]]:
    """Figures of earlier steps; what a stopped run wrote beyond its checkpoint is written once more."""
    rows = json.loads(path.read_text()) if path.is_file() else []
    return [row for row in rows if row["step"] < before]
