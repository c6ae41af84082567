"""What view_node sends to the page: binary packets with a JSON head, and a face as meshes small enough to stream."""

from __future__ import annotations

import json
import struct

import numpy as np

from ofer_models.tracking.spread import spread_mm
from ofer_msgs.msg import Face, FaceArray
from ofer_ros.base.geometry import pose_arrays, seconds
from ofer_ros.output.face_meshes import MeshDecoder
from ofer_ros.output.marker_layers import FULL_SPREAD
from ofer_ros.output.messages import hypotheses

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

    def head(self, names: list[str], bundle: str) -> bytes:
        """The page needs it before the first face: triangles, names of the expressions, the scale of colours in mm."""
        triangles = self._decoder.triangles.astype(np.uint32)
        fields = {"step": STEP, "full_spread": FULL_SPREAD, "expression_names": list(names), "bundle": bundle}
        return pack("head", fields, {"triangles": triangles})

    def faces(self, message: FaceArray, watched: str, jpeg: np.ndarray | None = None) -> bytes:
        """The face called `watched`, or the first where there is none of that name, and what else is in view.

        jpeg: the encoded picture of the same frame, uint8.

        Row 0 of meshes, expressions and jaws is what is shown, the others are the hypotheses in order. Meshes are in
        the head frame, in steps of STEP from the middle of the head; spread, of the uncertainty layer, in the same
        steps, left out where a single hypothesis tells none. Raises ValueError when a face does not fit the head.
        """
        fields: dict[str, object] = {
            "stamp": seconds(message.header.stamp),
            "frame_id": message.header.frame_id,
            "faces": [face.id for face in message.faces],
        }
        face = next((one for one in message.faces if one.id == watched), next(iter(message.faces), None))
        picture = {} if jpeg is None else {"jpeg": jpeg}
        if face is None:
            self.forget()
            return pack("faces", fields, picture)
        rotation, translation = pose_arrays(face.pose)
        scores = np.array(face.scores, np.float32)
        posed = np.concatenate([self._decoder.vertices(face)[None], self._decoder.hypotheses(face)])
        spread = spread_mm(posed[1:], scores) / (1000 * STEP)
        meshes = ((posed - translation) @ rotation - self._centre) / STEP
        limit = np.iinfo(np.int16).max
        expressions, jaws = hypotheses(face)
        arrays = {
            "meshes": np.clip(np.round(meshes), -limit, limit).astype(np.int16),
            "expressions": np.concatenate([np.array(face.expression, np.float32)[None], expressions]),
            "jaws": np.concatenate([np.array(face.jaw, np.float32)[None], jaws]),
            "scores": scores,
        }
        if not np.isnan(spread).any():
            arrays["spread"] = np.minimum(np.round(spread), np.iinfo(np.uint16).max).astype(np.uint16)
        return pack("faces", fields | {"face": _facts(face, rotation, translation)}, arrays | picture)

    def forget(self) -> None:
        """Drop what is kept of persons for speed."""
        self._decoder.forget()


def _facts(face: Face, rotation: np.ndarray, translation: np.ndarray) -> dict[str, object]:
    return {
        "id": face.id,
        "selected": face.selected,
        "rotation": rotation.ravel().tolist(),
        "translation": translation.tolist(),
        "metric": face.metric,
        "identity_revision": face.identity_revision,
        "identity_state": face.identity_state,
        "occlusion": _number(face.occlusion),
        "landmark_error": _number(face.landmark_error),
        "spread_mm": [_number(1000 * value) for value in (face.spread_mouth, face.spread_eyes, face.spread_brows)],
    }


def _number(value: float) -> float | None:
    """JSON has no nan."""
    return float(value) if np.isfinite(value) else None
