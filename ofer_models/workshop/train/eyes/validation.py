"""How good a landmark network is: on held-out renderings with exact truth, and on annotated photographs."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from ofer_models.head.landmark_sets import LANDMARKS68
from ofer_models.perception.crops import five_points
from ofer_models.perception.landmark_crop import HALF, INPUT, landmark_crop
from ofer_models.workshop.networks.landmarks import LandmarkNetwork
from ofer_models.workshop.pictures.measures import INNER, MEASURES, measures, slope
from ofer_models.workshop.pictures.people.dataset import PeopleSet
from ofer_models.workshop.train.eyes.batches import crop_input, plain
from ofer_models.workshop.train.eyes.faces import Faces, inner_errors

_BATCH = 100
_PASSES = 2
_WHOLE = 0.95  # share of the inner 51 points that are seen of a face whose movements are compared
# Shares of a Gaussian's coordinates within 1 and 1.96 deviations.
WITHIN = (1.0, 1.96)


def eyes_apart(points: np.ndarray) -> np.ndarray:
    """(n,) distances between the eyes' centres of mesh points (n, 478, >= 2)."""
    eyes = five_points(points)[:, :2]
    return np.linalg.norm(eyes[:, 1] - eyes[:, 0], axis=-1)


@torch.no_grad()
def predict(network: LandmarkNetwork, crops: torch.Tensor) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Points (n, 478, 2) and deviations (n, 478) in crop px, and the probability (n, 478) of being seen."""
    network.eval()
    device = next(network.parameters()).device
    parts = [network(crop_input(part.to(device))) for part in crops.split(_BATCH)]
    points, deviation, visible = (torch.cat(column).cpu() for column in zip(*parts, strict=True))
    return points.numpy(), deviation.numpy(), visible.sigmoid().numpy()


def on_renderings(network: LandmarkNetwork, pictures: PeopleSet) -> dict[str, float]:
    """Errors in % of the distance between the eyes' centres of the frontal crop, and how well deviations hold."""
    crops, true, seen = plain(pictures, np.arange(len(pictures)))
    points, deviation, visible = predict(network, crops)
    return rendering_figures(points, deviation, visible, true.numpy() * HALF + (INPUT - 1) / 2, seen.numpy())


def rendering_figures(
    points: np.ndarray, deviation: np.ndarray, visible: np.ndarray, true: np.ndarray, seen: np.ndarray
) -> dict[str, float]:
    """The figures of `on_renderings` of predictions and truth in crop px."""
    size = np.median(eyes_apart(true))  # of the set: a profile's own eyes lie on top of each other
    error = 100 * np.linalg.norm(points - true, axis=-1) / size
    ratio = np.abs(points - true) / deviation[..., None]
    figures = {
        "visible_mean": float(error[seen].mean()), "visible_median": float(np.median(error[seen])),
        "hidden_mean": float(error[~seen].mean()), "hidden_median": float(np.median(error[~seen])),
        "deviation_visible": float(100 * deviation[seen].mean() / size),
        "deviation_hidden": float(100 * deviation[~seen].mean() / size),
        "visibility_accuracy": float(((visible > 0.5) == seen).mean()),
    }  # fmt: skip
    for name, rows in (("visible", seen), ("hidden", ~seen)):
        for share, most in zip(("68", "95"), WITHIN, strict=True):
            figures[f"within_{share}_{name}"] = float((ratio[rows] < most).mean())
    whole = seen[:, LANDMARKS68][:, INNER].mean(1) >= _WHOLE
    return figures | movements(points[whole], true[whole])


def movements(points: np.ndarray, true: np.ndarray) -> dict[str, float]:
    """How much of each of MEASURES comes through, "slope of ..." of points on true ones, both (n, 478, >= 2) px: what
    a mean error does not show, because pose and shape make most of it."""
    own, of = (measures(value[:, LANDMARKS68, :2]) for value in (points, true))
    return {f"slope of {name}": slope(own[name], of[name])[0] for name in MEASURES}


def on_faces(network: LandmarkNetwork, faces: Faces) -> dict[str, float]:
    """`face_figures` of the network, and MediaPipe's own on the same faces as mediapipe_..."""
    points, _ = follow(lambda crops: predict(network, torch.from_numpy(crops)), faces)
    mediapipe = face_figures(faces.points, faces)
    return face_figures(points, faces) | {f"mediapipe_{name}": value for name, value in mediapipe.items()}


def face_figures(points: np.ndarray, faces: Faces) -> dict[str, float]:
    """Mean inner errors in % of the outer eyes' distance of points (n, 478, >= 2) px, as they are and without each
    point's constant offset.
    """
    plainly, without_offsets = inner_errors(points, faces.annotated)
    return {"inner": float(100 * plainly.mean()), "inner_no_offsets": float(100 * without_offsets.mean())}


def follow(run: Callable[[np.ndarray], tuple[np.ndarray, ...]], faces: Faces) -> tuple[np.ndarray, np.ndarray]:
    """Points (n, 478, 2) and deviations (n, 478), px of the photographs, of faces cropped by MediaPipe's points and
    then, as on a tracked face, by the network's own. run: crops (n, 128, 128, 3) to points, deviations, visible.
    """
    points, deviation = faces.points[..., :2], np.zeros(faces.points.shape[:2])
    for _ in range(_PASSES):
        pairs = [landmark_crop(rgb, own) for rgb, own in zip(faces.pictures, points, strict=True)]
        crops, matrices = (np.stack(column) for column in zip(*pairs, strict=True))
        found, deviation, _ = run(crops)
        points = np.einsum("nij,npj->npi", np.linalg.inv(matrices[:, :, :2]), found - matrices[:, None, :, 2])
        deviation = deviation / np.hypot(matrices[:, 0, 0], matrices[:, 1, 0])[:, None]
    return points, deviation
