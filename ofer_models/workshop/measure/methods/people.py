"""Landmarks and poses on held-out renderings of people at every yaw, clean and covered, by each method.

As on AFLW2000-3D: normalised mean error of the 68 landmarks in three bins of yaw. Covered pictures are the clean ones
with the occluders of `ofer train learner` laid over the face, always the same. What the covering costs is the figure of
robustness.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from ofer_models.bundle.manifest import Bundle
from ofer_models.head.landmark_sets import LANDMARKS68
from ofer_models.perception.head_pose import HeadPose
from ofer_models.perception.intrinsics import Intrinsics, project
from ofer_models.perception.regressor_crop import TO_CAMERA, cut_face, regressed_pose, regressed_rotation
from ofer_models.pipeline import Face, FacePipeline
from ofer_models.workshop.measure.methods.landmark_fit import LandmarkFit
from ofer_models.workshop.measure.metrics.nme import by_yaw, landmark_errors
from ofer_models.workshop.pictures.people import dataset
from ofer_models.workshop.progress import Progress, silent
from ofer_models.workshop.train.regressor.covering import cover
from ofer_models.workshop.train.regressor.faces import Teacher
from ofer_models.workshop.train.regressor.people import PeopleHeads

HALVES = ("clean", "occluded")
_HIDDEN = 0.15  # share of a face that may be covered in a picture that counts as clean: hair, glasses
_SEED = 545
_AROUND = 80  # px of border, so that a face does not fill the picture
Points = dict[str, np.ndarray]


@dataclass(frozen=True)
class Told:
    """By method: landmarks (68, 2) px, and poses."""

    points: Points
    poses: dict[str, HeadPose]


@dataclass
class Column:
    """Errors by picture: method -> nme (n,) in %, rotation (n,) degrees, translation (n,) % of the distance."""

    nme: dict[str, list[float]] = field(default_factory=dict)
    rotation: dict[str, list[float]] = field(default_factory=dict)
    translation: dict[str, list[float]] = field(default_factory=dict)


class Methods:
    """Asks every method about the largest face of a picture, which is known to none beforehand."""

    def __init__(self, bundle: Bundle) -> None:
        self._ofer, self._regressor = (FacePipeline(bundle, method=method) for method in ("ofer", "regressor"))
        self._head, self._alone, self._fit = bundle.head, Teacher(bundle), LandmarkFit(bundle)

    def __call__(self, rgb: np.ndarray, intrinsics: Intrinsics, true: np.ndarray) -> Told | None:
        """rgb (H, W, 3) uint8; true (68, 2) px, for the closest hypothesis alone. None where no face is found."""
        answers: list[Face] = []
        for pipeline in (self._ofer, self._regressor):
            pipeline.reset()
            found = pipeline(rgb, 0.0, intrinsics)
            if not found:
                return None
            answers.append(max(found, key=lambda face: face.roi[2] * face.roi[3]))
        ofer, regressed = answers
        fitted = self._fit(ofer.landmarks, intrinsics)
        if fitted is None:
            return None
        K = intrinsics.K
        poses = {"ofer": _pose_of(ofer), "regressor": _pose_of(regressed), "landmark fit": fitted.pose}
        drawn = np.stack([
            self._seen(self._ofer.vertices(ofer, which), poses["ofer"], K) for which in range(len(ofer.expressions))
        ])  # fmt: skip
        closest = drawn[np.linalg.norm(drawn - true, axis=-1).mean(1).argmin()]
        mesh = self._head.decode(fitted.betas, fitted.coefficients[:-3], fitted.coefficients[-3:])
        own, poses["regressor alone"] = self._by_itself(rgb, ofer.landmarks, K)
        return Told(
            {
                "ofer, ranked": drawn[ofer.selected], "ofer, mean": drawn.mean(0), "ofer, closest": closest,
                "regressor": self._seen(self._regressor.vertices(regressed), poses["regressor"], K),
                "regressor alone": own, "landmark fit": self._seen(mesh, fitted.pose, K),
                "mediapipe": ofer.landmarks[LANDMARKS68, :2],
            },
            poses,
        )  # fmt: skip

    def _seen(self, vertices: np.ndarray, pose: HeadPose, K: np.ndarray) -> np.ndarray:
        marks = self._head.landmarks(vertices, "landmarks68")
        return project(marks @ pose.rotation.T + pose.translation, K)

    def _by_itself(self, rgb: np.ndarray, points: np.ndarray, K: np.ndarray) -> tuple[np.ndarray, HeadPose]:
        """The regressor's landmarks by its own rotation and camera, and its pose."""
        head, spec = self._head, self._alone.spec
        crop, matrix = cut_face(rgb, points, spec.crop)
        told = spec.split(self._alone(crop[None])[0])
        mesh = head.decode(told["shape"], told["expression"], told["jaw"])
        root, turn = head.identity(told["shape"]).joints[0], regressed_rotation(told, spec)
        scale, *shift = told["camera"]
        marks = (head.landmarks(mesh, "landmarks68") - root) @ turn.T + root
        half = spec.crop.size / 2
        placed = half - 0.5 + half * scale * (marks[:, :2] + shift) * [1, -1]
        back = cv2.invertAffineTransform(matrix)
        middle = head.landmarks(mesh, "mediapipe").mean(0)
        return placed @ back[:, :2].T + back[:, 2], regressed_pose(told, spec, matrix, K, root, middle)


def measure_people(bundle: Bundle, folder: Path, count: int, progress: Progress = silent) -> dict[str, Any]:
    """Figures of the clean ones among the first `count` pictures of a folder of `ofer train eyes`.

    nme: half -> method -> bins of `NmeErrors`; cost: method -> occluded minus clean, of the bins' mean; pose: half ->
    method -> median rotation (degrees) and translation (% of the distance); pictures: that all methods answered, of
    both halves; missing: those where no face was found in one of them.
    """
    methods, columns, yaws, missing = Methods(bundle), {name: Column() for name in HALVES}, [], 0
    pairs = list(_pairs(bundle, folder, count, progress))
    for images, intrinsics, true, pose in pairs:
        told = [methods(image, intrinsics, true) for image in images]
        if None in told:
            missing += 1
            continue
        turned = TO_CAMERA @ pose[:, :3]
        yaws.append(float(np.degrees(np.arctan2(turned[0, 2], turned[2, 2]))))
        for name, answer in zip(HALVES, told, strict=True):
            _add(columns[name], answer, true, pose)
    nme = {
        half: {name: asdict(by_yaw(np.array(errors), np.array(yaws))) for name, errors in column.nme.items()}
        for half, column in columns.items()
    }
    return {
        "nme": nme,
        "cost": {name: nme["occluded"][name]["mean"] - row["mean"] for name, row in nme["clean"].items()},
        "pose": {
            half: {
                name: {"rotation": float(np.median(errors)), "translation": float(np.median(column.translation[name]))}
                for name, errors in column.rotation.items()
            }
            for half, column in columns.items()
        },
        "pictures": len(yaws), "missing": missing,
    }  # fmt: skip


def _pairs(
    bundle: Bundle, folder: Path, count: int, progress: Progress
) -> Iterator[tuple[list[np.ndarray], Intrinsics, np.ndarray, np.ndarray]]:
    """A picture clean and covered, its camera, true landmarks (68, 2) px and pose (3, 4)."""
    head, people, truth = bundle.head, PeopleHeads.load(bundle.head, folder, count), dataset.load_truth(folder, count)
    covered = people.targets.of_crops(np.arange(count), people.pictures.visible)[:, -1]
    rows = np.flatnonzero(covered < _HIDDEN)
    for row in progress(rows, "asking every method about people", len(rows)):
        image, K, pose = people.pictures.image(int(row)), truth.camera[row].astype(np.float64), truth.pose[row]
        mesh = head.decode(truth.betas[row], truth.expression[row], truth.jaw[row])
        true = project(head.landmarks(mesh, "landmarks68") @ pose[:, :3].T + pose[:, 3], K)
        hidden = cover(image, true.astype(np.float32), np.random.default_rng((_SEED, int(row))))
        images = [
            cv2.copyMakeBorder(part, *[_AROUND] * 4, cv2.BORDER_REPLICATE) for part in (np.asarray(image), hidden)
        ]
        K = K + [[0, 0, _AROUND], [0, 0, _AROUND], [0, 0, 0]]
        side = len(images[0])
        yield images, Intrinsics(K, side, side), true + _AROUND, pose


def _add(column: Column, told: Told, true: np.ndarray, pose: np.ndarray) -> None:
    for name, points in told.points.items():
        column.nme.setdefault(name, []).append(float(landmark_errors(points[None], true[None])[0]))
    for name, found in told.poses.items():
        cosine = (np.trace(found.rotation.T @ pose[:, :3]) - 1) / 2
        column.rotation.setdefault(name, []).append(float(np.degrees(np.arccos(np.clip(cosine, -1, 1)))))
        off = np.linalg.norm(found.translation - pose[:, 3]) / np.linalg.norm(pose[:, 3])
        column.translation.setdefault(name, []).append(100 * float(off))


def _pose_of(face: Face) -> HeadPose:
    return HeadPose(face.rotation, face.translation, np.zeros(0))
