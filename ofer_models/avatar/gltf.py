"""A head with ARKit's 52 shapes as morph targets and an animation of weights and head pose, as one GLB file.

glTF 2.0 has the head's own axes: +y up, and what faces +z is the front, so that the person's left is +x.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pygltflib as gltf

from ofer_models.avatar.performance import Performance
from ofer_models.drawing.shading import Shader, face_normals
from ofer_models.head.arkit import ARKIT_NAMES, has_units
from ofer_models.head.model import HeadModel
from ofer_models.head.rotations import quaternion_from_matrix

SKIN = (0.8, 0.6, 0.5, 1.0)


class Buffer:
    """The binary part of a GLB and the accessors into it."""

    def __init__(self, document: gltf.GLTF2) -> None:
        self._document, self._bytes = document, bytearray()

    def add(self, values: np.ndarray, kind: str, target: int | None = None, bounds: bool = False) -> int:
        """Index of a new accessor on values (N,) or (N, C): float32, or uint32 for indices.

        bounds: state their least and largest.
        """
        data = np.ascontiguousarray(values, np.uint32 if target == gltf.ELEMENT_ARRAY_BUFFER else np.float32)
        view = gltf.BufferView(buffer=0, byteOffset=len(self._bytes), byteLength=data.nbytes, target=target)
        self._bytes += data.tobytes()
        self._document.bufferViews.append(view)
        rows = data.reshape(len(data), -1)
        limits = {"min": rows.min(0).tolist(), "max": rows.max(0).tolist()} if bounds else {}
        component = gltf.UNSIGNED_INT if data.dtype == np.uint32 else gltf.FLOAT
        self._document.accessors.append(
            gltf.Accessor(
                bufferView=len(self._document.bufferViews) - 1, componentType=component, count=len(data), type=kind,
                **limits,
            )
        )  # fmt: skip
        return len(self._document.accessors) - 1

    def close(self) -> None:
        """Put the bytes into the document."""
        self._document.buffers.append(gltf.Buffer(byteLength=len(self._bytes)))
        self._document.set_binary_blob(bytes(self._bytes))


def check_units(head: HeadModel) -> None:
    """Raise ValueError, in one line, for a head whose coefficients are not ARKit's units."""
    if not has_units(head):
        raise ValueError(
            "an animated head needs ARKit's units as its expression coefficients, which this bundle's head has not: "
            "use the open bundle"
        )


def morph_targets(head: HeadModel, betas: np.ndarray) -> np.ndarray:
    """Displacements (52, V, 3) in metres of the head of betas (S,) by each of ARKit's units at 1; `jawOpen` turns the
    jaw joint by its whole angle. Raises ValueError as `check_units`."""
    check_units(head)
    rest = head.decode(betas)
    moved = np.zeros((len(ARKIT_NAMES), *rest.shape), np.float32)
    for row, name in enumerate(ARKIT_NAMES):
        if name == "tongueOut":
            continue  # the head has no tongue
        expression = np.array([name == own for own in head.expression_names], np.float32)
        jaw = np.array([head.jaw_open_angle if name == "jawOpen" else 0.0, 0.0, 0.0], np.float32)
        moved[row] = head.decode(betas, expression, jaw) - rest
    return moved


def write_glb(path: Path, head: HeadModel, betas: np.ndarray, frames: Sequence[Performance]) -> None:
    """The head of betas (S,) played through frames in the order of their stamps, which must rise.

    The animation starts at 0 s, and its first frame stands in the origin. Of frames that float32, which is glTF's time,
    cannot tell apart the first is kept. Raises ValueError without frames, for stamps
    that do not rise, and for a head as `check_units` does.
    """
    stamps = np.array([frame.stamp for frame in frames], np.float64)
    if not len(stamps) or (np.diff(stamps) <= 0).any():
        raise ValueError("an animation needs at least one frame, and stamps that rise")
    seconds, kept = np.unique((stamps - stamps[0]).astype(np.float32), return_index=True)
    document = gltf.GLTF2(asset=gltf.Asset(version="2.0", generator="ofer_ros"))
    buffer = Buffer(document)
    _add_head(document, buffer, head, betas)
    _add_animation(document, buffer, [frames[index] for index in kept], seconds)
    buffer.close()
    path.parent.mkdir(parents=True, exist_ok=True)
    document.save_binary(str(path))


def _add_head(document: gltf.GLTF2, buffer: Buffer, head: HeadModel, betas: np.ndarray) -> None:
    rest = head.decode(betas).astype(np.float32)
    normals = Shader(head.faces, len(rest)).vertex_normals(face_normals(rest, head.faces))
    flat = np.linalg.norm(normals, axis=1) < 0.5  # a vertex of no triangle
    normals[flat] = (0, 0, 1)
    attributes = gltf.Attributes(
        POSITION=buffer.add(rest, gltf.VEC3, gltf.ARRAY_BUFFER, bounds=True),
        NORMAL=buffer.add(normals / np.linalg.norm(normals, axis=1, keepdims=True), gltf.VEC3, gltf.ARRAY_BUFFER),
    )
    targets = [
        {"POSITION": buffer.add(moved, gltf.VEC3, gltf.ARRAY_BUFFER, bounds=True)}
        for moved in morph_targets(head, betas)
    ]
    triangles = buffer.add(head.faces.ravel(), gltf.SCALAR, gltf.ELEMENT_ARRAY_BUFFER)
    surface = gltf.PbrMetallicRoughness(baseColorFactor=list(SKIN), metallicFactor=0.0, roughnessFactor=0.7)
    document.materials.append(gltf.Material(name="skin", pbrMetallicRoughness=surface))
    primitive = gltf.Primitive(attributes=attributes, indices=triangles, material=0, targets=targets)
    names = {"targetNames": list(ARKIT_NAMES)}  # where three.js and Blender look for them
    document.meshes.append(
        gltf.Mesh(name="head", primitives=[primitive], weights=[0.0] * len(ARKIT_NAMES), extras=names)
    )
    document.nodes.append(gltf.Node(name="head", mesh=0))
    document.scenes.append(gltf.Scene(nodes=[0]))
    document.scene = 0


def _add_animation(
    document: gltf.GLTF2, buffer: Buffer, frames: Sequence[Performance], seconds: np.ndarray
) -> None:
    time = buffer.add(seconds, gltf.SCALAR, bounds=True)
    tracks = {
        "weights": (np.concatenate([frame.weights for frame in frames]), gltf.SCALAR),
        "rotation": (_quaternions([frame.rotation for frame in frames]), gltf.VEC4),
        "translation": (np.array([frame.translation - frames[0].translation for frame in frames]), gltf.VEC3),
    }
    animation = gltf.Animation(name="performance")
    for path, (values, kind) in tracks.items():
        sampler = gltf.AnimationSampler(input=time, output=buffer.add(values, kind), interpolation=gltf.ANIM_LINEAR)
        animation.samplers.append(sampler)
        target = gltf.AnimationChannelTarget(node=0, path=path)
        animation.channels.append(gltf.AnimationChannel(sampler=len(animation.samplers) - 1, target=target))
    document.animations.append(animation)


def _quaternions(rotations: Sequence[np.ndarray]) -> np.ndarray:
    """Unit quaternions (N, 4) x, y, z, w, each on the side of the one before, so that players take the short way."""
    found = np.array([quaternion_from_matrix(rotation) for rotation in rotations])
    for row in range(1, len(found)):
        if found[row] @ found[row - 1] < 0:
            found[row] *= -1
    return found / np.linalg.norm(found, axis=1, keepdims=True)
