"""Predictions of a bundle for the licensed sets, by the pipeline itself, in the layout that the runners read."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ofer_models.bundle.manifest import Bundle
from ofer_models.head.landmark_sets import landmarks_on_people
from ofer_models.perception.intrinsics import Intrinsics, project
from ofer_models.perception.pictures import SUFFIXES, PictureError, read_picture
from ofer_models.pipeline import Face, FacePipeline
from ofer_models.reconstruction.mesh_files import write_mesh
from ofer_models.workshop.errors import EvaluationError
from ofer_models.workshop.measure.licensed.runners import now_images
from ofer_models.workshop.progress import Progress

NOW_PICTURES = Path("NoW_Dataset/final_release_version/iphone_pictures")


def predict_now(bundle: Bundle, data: Path, out: Path, progress: Progress) -> None:
    """Neutral meshes in mm with their seven landmarks, one a picture; finished ones stay."""
    if "now7" not in bundle.head.embeddings:
        raise EvaluationError(f"bundle {bundle.name} lacks NoW's landmarks; run `ofer import` again with --landmarks")
    pipeline, images = FacePipeline(bundle), now_images(data)
    for image in progress(images, "reconstructing NoW", len(images)):
        path = (out / image).with_suffix(".ply")
        if path.exists() or not (face := _face(pipeline, _read(_existing(data, image)))):
            continue
        vertices = 1000 * bundle.head.decode(face.shape)
        path.parent.mkdir(parents=True, exist_ok=True)
        np.savetxt(path.with_suffix(".txt"), bundle.head.landmarks(vertices, "now7"))
        write_mesh(path, vertices, bundle.head.faces)


def predict_co545(bundle: Bundle, data: Path, out: Path, progress: Progress) -> None:
    """All expression hypotheses of each picture as vertices (K, V, 3) in mm, head frame."""
    out.mkdir(parents=True, exist_ok=True)
    truths = sorted((data / "truth").glob("*.npz"))
    pipeline = FacePipeline(bundle)
    for truth in progress(truths, "reconstructing CO-545", len(truths)):
        if (out / truth.name).exists() or not (face := _face(pipeline, _read(_existing(data / "images", truth.stem)))):
            continue
        samples = [pipeline.vertices(face, which) for which in range(len(face.expressions))]
        np.savez(out / truth.name, vertices=1000 * np.stack(samples))


def predict_aflw2000(bundle: Bundle, data: Path, out: Path, progress: Progress) -> None:
    """The selected hypothesis' 68 landmarks in the picture (n, 68, 2) px; NaN where no face was found."""
    if "landmarks68" not in bundle.head.embeddings:
        raise EvaluationError(f"bundle {bundle.name} has no 68 landmarks; run `ofer import` again with --landmarks")
    files, pipeline = sorted(data.glob("*.mat")), FacePipeline(bundle)
    points = np.full((len(files), 68, 2), np.nan)
    for row, file in enumerate(progress(files, "reconstructing AFLW2000-3D", len(files))):
        path = _existing(data, file.stem)
        rgb = _read(path)
        if face := _face(pipeline, rgb):
            height, width = rgb.shape[:2]
            model = landmarks_on_people(bundle.head, pipeline.vertices(face))
            camera = model @ face.rotation.T + face.translation
            points[row] = project(camera, Intrinsics.from_field_of_view(width, height).K)
    out.parent.mkdir(parents=True, exist_ok=True)
    np.save(out, points)


def _existing(folder: Path, image: str) -> Path:
    """The picture of this name, with any of the usual endings."""
    places = [folder / image, folder / NOW_PICTURES / image]
    tried = [place if place.suffix in SUFFIXES else place.with_name(place.name + end)
             for place in places for end in SUFFIXES]  # fmt: skip
    for path in tried:
        if path.is_file():
            return path
    raise EvaluationError(f"no picture {image} in {folder}")


def _read(path: Path) -> np.ndarray:
    try:
        return read_picture(path)
    except PictureError as error:
        raise EvaluationError(f"{path}: {error}") from None


def _face(pipeline: FacePipeline, rgb: np.ndarray) -> Face | None:
    """The largest face of a picture, by itself: nothing is remembered from one to the next."""
    pipeline.reset()
    faces = pipeline(rgb, 0.0)
    if pipeline.identity_failure:
        raise EvaluationError(f"no identity could be drawn: {pipeline.identity_failure}")
    return max(faces, key=lambda face: face.roi[2] * face.roi[3], default=None)
