"""Runners for those who hold the licensed sets: NoW, CO-545 and AFLW2000-3D. See `README.md` here for the folders.

Each takes the folder of a set and a folder of predictions; images without a prediction are counted and reported.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np

from ofer_models.files.arrays import read_npy, read_npz
from ofer_models.files.refusal import FileRefused, one_line
from ofer_models.workshop.errors import EvaluationError
from ofer_models.workshop.measure.metrics import hypotheses as metrics
from ofer_models.workshop.measure.metrics.nme import by_yaw, landmark_errors
from ofer_models.workshop.measure.metrics.now import pool, scan_distances
from ofer_models.workshop.progress import Progress

MESHES, POINTS = (".obj", ".ply"), (".npy", ".txt")
_FLOOR = 0.05  # mm: deviations below this are none


def evaluate_now(data: Path, predictions: Path, *, metrical: bool, progress: Progress) -> dict[str, Any]:
    """NoW errors over all images of the list, and by challenge (neutral, expression, occlusion, selfie)."""
    images = now_images(data)
    distances: dict[str, list[np.ndarray | None]] = {}
    for image in progress(images, "NoW", len(images)):
        subject, challenge = Path(image).parts[:2]
        stem = (predictions / image).with_suffix("")
        mesh, points = _first(stem, MESHES), _first(stem, POINTS)
        result = None
        if mesh and points:
            scan = _mesh(_only(data / "scans" / subject, "*.obj"))[0]
            marks = read_picked_points(_only(data / "scans_lmks_onlypp" / subject, "*.pp"))
            result = scan_distances(scan, marks, *_mesh(mesh), _seven(points), metrical=metrical)
        distances.setdefault(_kind(challenge), []).append(result)
    every = [one for some in distances.values() for one in some]
    return {"all": asdict(pool(every)), **{name: asdict(pool(some)) for name, some in sorted(distances.items())}}


def now_images(data: Path) -> list[str]:
    """The images `subject/challenge/image` of the set's list: the validation list, or else the test list."""
    for name in ("imagepathsvalidation.txt", "imagepathstest.txt"):
        if (data / name).is_file():
            images = [line.strip() for line in (data / name).read_text().splitlines() if line.strip()]
            if bad := [image for image in images if len(Path(image).parts) != 3]:
                raise EvaluationError(f"{data / name}: {bad[0]!r} is not subject/challenge/image")
            return images
    raise EvaluationError(f"{data} holds no imagepathsvalidation.txt; get it from the NoW site")


def read_picked_points(path: Path) -> np.ndarray:
    """The seven landmarks (7, 3) of a MeshLab .pp file, in the file's order."""
    rows = []
    try:
        points = ElementTree.parse(path).iter("point")
    except ElementTree.ParseError as error:
        raise EvaluationError(f"{path} is no file of MeshLab's picked points ({error})") from None
    for point in points:
        if point.get("active", "1") != "0":
            rows.append([float(point.get(axis, "nan")) for axis in "xyz"])
    if len(rows) != 7:
        raise EvaluationError(f"{path} holds {len(rows)} points, expected the seven of NoW")
    return np.array(rows)


def evaluate_co545(data: Path, predictions: Path, *, progress: Progress) -> dict[str, Any]:
    """The multi-hypothesis metrics averaged over images; CSE, SE and self distances in mm, ODE in deviations."""
    truths = sorted((data / "truth").glob("*.npz"))
    if not truths:
        raise EvaluationError(f"{data / 'truth'} holds no .npz files; the README that docs/cli.md links tells more")
    if not (data / "population.npz").is_file():
        raise EvaluationError(
            f"{data} lacks population.npz, the reference meshes of ODE; the README that docs/cli.md links tells more"
        )
    (meshes,) = _arrays(data / "population.npz", "meshes")
    population, scale = metrics.VertexPopulation.fit(meshes, _FLOOR), metrics.reference_scale(meshes)
    rows, missing = [], 0
    for path in progress(truths, "CO-545", len(truths)):
        if not (predictions / path.name).is_file():
            missing += 1
            continue
        vertices, visible, occluded = _arrays(path, "vertices", "visible", "occluded")
        samples = _arrays(predictions / path.name, "vertices")[0].astype(np.float64)
        if samples.ndim != 3 or samples.shape[1:] != vertices.shape:
            raise EvaluationError(
                f"{predictions / path.name}: vertices {samples.shape} do not fit the truth's {vertices.shape}; "
                "the samples need the topology of the set (FLAME)"
            )
        rows.append(metrics.hypothesis_figures(samples, vertices, visible, occluded, population, scale))
    return {**metrics.averaged(rows), "images": len(rows), "missing": missing}


def evaluate_aflw2000(data: Path, predictions: Path) -> dict[str, Any]:
    """NME by yaw bins of a prediction file (n, 68, 2) px, rows in the order of the images' sorted names."""
    truth, yaw = aflw2000_truth(data)
    if not predictions.is_file():
        raise EvaluationError(f"{predictions} is missing: landmarks (n, 68, 2) px as .npy")
    predicted = _array(predictions)
    if predicted.shape[:2] != truth.shape[:2]:
        raise EvaluationError(f"{predictions} has shape {predicted.shape}, the set holds {truth.shape}")
    found = np.isfinite(predicted).all((1, 2))
    if not found.any():
        raise EvaluationError(f"{predictions} holds no finite prediction")
    figures = asdict(by_yaw(landmark_errors(predicted[found], truth[found]), yaw[found]))
    return {**figures, "missing": int((~found).sum())}


def aflw2000_truth(data: Path) -> tuple[np.ndarray, np.ndarray]:
    """Landmarks (n, 68, 2) px and yaw (n,) in degrees, from the set's .mat files in the order of their names."""
    from scipy.io import loadmat

    files = sorted(data.glob("*.mat"))
    if not files:
        raise EvaluationError(f"{data} holds no .mat files; give the folder AFLW2000 of the set")
    points, yaw = [], []
    for file in files:
        try:
            content = loadmat(file, variable_names=("pt3d_68", "Pose_Para"))
            points.append(content["pt3d_68"][:2].T.astype(np.float64).reshape(68, 2))
            yaw.append(float(np.degrees(content["Pose_Para"][0, 1])))
        except Exception as error:  # scipy raises many types for a damaged file
            raise EvaluationError(f"{file} is no file of AFLW2000-3D ({one_line(error)})") from None
    return np.array(points, np.float64), np.array(yaw, np.float64)


def _arrays(path: Path, *names: str) -> list[np.ndarray]:
    """Arrays of numbers of an .npz by name."""
    try:
        arrays = read_npz(path)
        return [arrays[name] for name in names]
    except FileRefused as error:
        raise EvaluationError(f"{path.parent}: {error}") from None
    except KeyError as error:
        raise EvaluationError(f"{path} lacks the array {error}") from None


def _array(path: Path) -> np.ndarray:
    try:
        return read_npy(path)
    except FileRefused as error:
        raise EvaluationError(f"{path.parent}: {error}") from None


def _kind(challenge: str) -> str:
    """NoW's folder names to its four challenges."""
    return next((kind for kind in ("neutral", "expression", "occlusion", "selfie") if kind in challenge), challenge)


def _first(stem: Path, endings: tuple[str, ...]) -> Path | None:
    return next((path for end in endings if (path := stem.with_name(stem.name + end)).is_file()), None)


def _only(folder: Path, pattern: str) -> Path:
    found = sorted(folder.glob(pattern))
    if len(found) != 1:
        raise EvaluationError(f"{folder} holds {len(found)} files {pattern}, expected one")
    return found[0]


def _mesh(path: Path) -> tuple[np.ndarray, np.ndarray]:
    import trimesh

    try:
        mesh = trimesh.load(path, process=False, force="mesh")
    except Exception as error:  # trimesh raises many types for a damaged mesh
        raise EvaluationError(f"{path} is no readable mesh ({one_line(error)})") from None
    return np.asarray(mesh.vertices), np.asarray(mesh.faces)


def _seven(path: Path) -> np.ndarray:
    try:
        points = _array(path) if path.suffix == ".npy" else np.loadtxt(path)
    except (ValueError, UnicodeDecodeError) as error:
        raise EvaluationError(f"{path} holds no numbers ({one_line(error)})") from None
    if points.shape != (7, 3):
        raise EvaluationError(f"{path} holds landmarks {points.shape}, expected (7, 3)")
    return points
