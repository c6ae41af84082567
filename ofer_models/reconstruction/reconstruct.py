"""One picture after the other through the node's pipeline, and the files that each face becomes."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from ofer_models.head.albedo import Albedo
from ofer_models.perception.pictures import PictureError, printable, read_picture
from ofer_models.pipeline import FacePipeline
from ofer_models.reconstruction.coefficients import arrays, document
from ofer_models.reconstruction.mesh_files import MeshFormat, MeshTexture, write_mesh
from ofer_models.reconstruction.photo_texture import photo_texture
from ofer_models.reconstruction.pictures import folder_names
from ofer_models.reconstruction.result import Reconstruction
from ofer_models.reconstruction.result_folder import remove_results, replaced
from ofer_models.reconstruction.sheet import draw_sheet
from ofer_models.reconstruction.unknown_camera import read_still

MAX_FACES = 100  # in one picture
NOW = "now7"


class ReconstructError(ValueError):
    """What was asked for cannot be done for any picture; one line says why."""


@dataclass(frozen=True)
class Output:
    """Where and how results are written: millimetres goes for meshes and landmark files, landmarks are NoW's seven."""

    folder: Path
    mesh_format: MeshFormat = "ply"
    millimetres: bool = False
    landmarks: bool = False


@dataclass(frozen=True)
class PictureResult:
    """What a picture gave: faces, where they were written and how long it took, or why there are none."""

    picture: Path
    folder: Path
    faces: list[Reconstruction]
    seconds: float
    problem: str = ""


def reconstruct(pictures: Iterable[Path], pipeline: FacePipeline, output: Output, seed: int) -> Iterator[PictureResult]:
    """Reconstruct each picture by itself: the pipeline is reset between them, so their order does not matter.

    seed is the pipeline's, for the record. A picture that cannot be read, shows no face, or whose results cannot be
    written gives a PictureResult with a problem. What an earlier run left for the same picture is replaced, or taken
    away where there is nothing new. Raises ReconstructError when the options ask for what cannot be.
    """
    if output.mesh_format == "glb" and output.millimetres:
        raise ReconstructError("GLB files are in metres by definition; leave out --millimetres or take --format ply")
    if output.landmarks and NOW not in pipeline.head.embeddings:
        raise ReconstructError(
            f"the head model of {pipeline.bundle.path} has no NoW landmarks; run `ofer import` again with --landmarks"
        )
    pictures = list(pictures)
    for picture, name in zip(pictures, folder_names(pictures), strict=True):
        started, folder = time.perf_counter(), output.folder / name
        faces: list[Reconstruction] = []
        problem = ""
        try:
            try:
                faces = _one(picture, folder, pipeline, output, seed)
            finally:
                if not faces:
                    remove_results(folder)
        except ValueError as error:  # PictureError, and what the pipeline refuses, such as more samples than noise
            problem = str(error)
        except OSError as error:
            problem = f"results cannot be written ({error})"
        yield PictureResult(picture, folder, faces, time.perf_counter() - started, problem)


def _one(picture: Path, folder: Path, pipeline: FacePipeline, output: Output, seed: int) -> list[Reconstruction]:
    rgb = read_picture(picture)
    # Ids of tracks go on counting from picture to picture; names must not depend on what came before.
    pipeline.reset()
    faces, camera = read_still(pipeline, rgb, pipeline.reset)
    found = sorted(faces, key=lambda face: face.roi)
    if pipeline.identity_failure:
        raise PictureError(f"no identity could be drawn: {pipeline.identity_failure}")
    results = [Reconstruction.of(f"face{number}", pipeline, face, camera) for number, face in enumerate(found, start=1)]
    if not results:
        raise PictureError("no face found")
    with replaced(folder) as part:
        for result in results:
            stem = part / result.name
            texture = _texture(rgb, result, pipeline.bundle.albedo)
            sheet = cv2.cvtColor(draw_sheet(rgb, result, texture), cv2.COLOR_RGB2BGR)
            stem.with_suffix(".png").write_bytes(cv2.imencode(".png", sheet)[1].tobytes())
            np.savez(stem.with_suffix(".npz"), **arrays(result))
            content = document(result, pipeline.bundle, printable(picture), seed, pipeline.candidates)
            stem.with_suffix(".json").write_text(json.dumps(content, indent=1))
            _write_meshes(stem, result, output, texture)
    return results


def _texture(rgb: np.ndarray, result: Reconstruction, albedo: Albedo | None) -> MeshTexture | None:
    """The picture's own texture of a face, where the bundle has an albedo that is one."""
    if albedo is None or albedo.at_vertices:
        return None
    return MeshTexture(photo_texture(rgb, result, albedo), albedo.vt, albedo.ft, result.name)


def _write_meshes(stem: Path, result: Reconstruction, output: Output, texture: MeshTexture | None) -> None:
    """`<face>_identity` and `<face>_00`, `<face>_01`, ..., each with its landmarks beside it if they are wanted; the
    texture is in every GLB and beside OBJs."""
    if texture is not None and output.mesh_format == "obj":
        texture.write(stem.parent)
    meshes = {"identity": result.identity} | {f"{row:02d}": mesh for row, mesh in enumerate(result.hypotheses)}
    scale = 1000.0 if output.millimetres else 1.0
    for name, vertices in meshes.items():
        path = stem.with_name(f"{stem.name}_{name}.{output.mesh_format}")
        write_mesh(path, scale * vertices, result.head.faces, texture)
        if output.landmarks:
            np.savetxt(path.with_suffix(".txt"), scale * result.head.landmarks(vertices, NOW), fmt="%.6f")
