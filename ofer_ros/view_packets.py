"""What view_node sends to the page: binary packets with a JSON head, and a face as meshes small enough to stream."""

from __future__ import annotations

import json
import struct

import numpy as np

from ofer_msgs.msg import Face, FaceArray
from ofer_ros.geometry import pose_arrays, seconds
from ofer_ros.mesh import MeshDecoder

# A step of the streamed coordinates, metres: int16 then reaches 0.33 m from the middle of the head.
STEP = 1e-5
_ALIGN = 8  # bytes; a typed array of the page begins at a multiple of its element's size


def pack(kind: str, fields: dict[str, object], arrays: dict[str, np.ndarray] | None = None) -> bytes:
    """One packet: the head's length (uint32, little-endian), the head as JSON, then the arrays, each at its offset.

    The head holds `kind`, `fields` and under `arrays` the type, shape and offset of each array by name. Offsets count
    from the end of the head, which is padded.
    """
    places, bulk, offset = {}, [], 0
    for name, array in (arrays or {}).items():
        data = np.ascontiguousarray(array).tobytes()
        places[name] = {"type": array.dtype.name, "shape": array.shape, "offset": offset}
        data += bytes(-len(data) % _ALIGN)
        bulk.append(data)
        offset += len(data)
    head = json.dumps({"kind": kind, **fields, "arrays": places}, separators=(",", ":"), allow_nan=False).encode()
    head += b" " * (-(4 + len(head)) % _ALIGN)
    return b"".join((struct.pack("<I", len(head)), head, *bulk))


class FacePackets:
    """Packets about one head: its triangles once, and the meshes of a face with each FaceArray."""

    def __init__(self, decoder: MeshDecoder) -> None:
        self._decoder = decoder
        template = decoder.head.v_template[decoder.vertex_indices]
        self._centre = (template.min(axis=0) + template.max(axis=0)) / 2
        self._size = np.ptp(template, axis=0)

    def head(self, names: list[str], bundle: str) -> bytes:
        """The page needs it before the first face: triangles, size in metres, names of the expressions."""
        triangles = self._decoder.triangles.astype(np.uint32)
        size = self._size.tolist()
        fields = {"step": STEP, "size": size, "expression_names": list(names), "bundle": bundle}
        return pack("head", fields, {"triangles": triangles})

    def faces(self, message: FaceArray, watched: str) -> bytes:
        """The face called `watched`, or the first where there is none of that name, and what else is in view.

        Meshes are in the head frame, in steps of STEP from the middle of the head: row 0 the one that is shown, the
        others the hypotheses in order. spread: root mean square distance of the hypotheses' vertices from their mean,
        in the same steps. Raises ValueError when a face does not fit the head.
        """
        fields: dict[str, object] = {
            "stamp": seconds(message.header.stamp),
            "frame_id": message.header.frame_id,
            "faces": [face.id for face in message.faces],
        }
        face = next((one for one in message.faces if one.id == watched), next(iter(message.faces), None))
        if face is None:
            return pack("faces", fields)
        meshes = self._meshes(face)
        spread = np.sqrt(meshes[1:].var(axis=0).sum(axis=-1))
        limit = np.iinfo(np.int16).max
        arrays = {
            "meshes": np.clip(np.round((meshes - self._centre) / STEP), -limit, limit).astype(np.int16),
            "spread": np.minimum(np.round(spread / STEP), np.iinfo(np.uint16).max).astype(np.uint16),
            "expressions": np.array(face.expressions, np.float32).reshape(face.num_hypotheses, -1),
            "jaws": np.array(face.jaws, np.float32).reshape(face.num_hypotheses, 3),
            "scores": np.array(face.scores, np.float32),
        }
        return pack("faces", fields | {"face": self._facts(face)}, arrays)

    def _meshes(self, face: Face) -> np.ndarray:
        """(1 + H, V', 3) metres in the head frame: the mesh that is shown, then every hypothesis."""
        rotation, translation = pose_arrays(face.pose)
        rows = [None, *range(face.num_hypotheses)]
        return np.stack([(self._decoder.vertices(face, row) - translation) @ rotation for row in rows])

    @staticmethod
    def _facts(face: Face) -> dict[str, object]:
        rotation, translation = pose_arrays(face.pose)
        return {
            "id": face.id,
            "selected": face.selected,
            "rotation": rotation.ravel().tolist(),
            "translation": translation.tolist(),
            "metric": face.metric,
            "confidence": _number(face.confidence),
            "identity_revision": face.identity_revision,
            "occlusion": _number(face.occlusion),
            "landmark_error": _number(face.landmark_error),
        }


def _number(value: float) -> float | None:
    """JSON has no nan."""
    return float(value) if np.isfinite(value) else None
