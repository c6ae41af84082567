"""Triangle meshes as OBJ, binary PLY or GLB, written without help: each format needs a few lines of what it can do.

Formats: Wavefront OBJ; the PLY polygon format (Turk 1994); glTF 2.0 (Khronos), whose unit is the metre by definition.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal

import numpy as np

from ofer_models.drawing.shading import Shader, face_normals

MeshFormat = Literal["ply", "obj", "glb"]
_FLOAT, _UINT32, _VERTEX_DATA, _INDEX_DATA = 5126, 5125, 34962, 34963  # glTF's numbers for them


def write_mesh(path: Path, vertices: np.ndarray, faces: np.ndarray) -> None:
    """Write vertices (V, 3) and triangles (F, 3) in the format of the path's suffix; a mesh has no unit but GLB's."""
    vertices, faces = np.asarray(vertices, np.float32), np.asarray(faces, np.int32)
    {".ply": _ply, ".obj": _obj, ".glb": _glb}[path.suffix](path, vertices, faces)


def _ply(path: Path, vertices: np.ndarray, faces: np.ndarray) -> None:
    header = (
        "ply\nformat binary_little_endian 1.0\n"
        f"element vertex {len(vertices)}\nproperty float x\nproperty float y\nproperty float z\n"
        f"element face {len(faces)}\nproperty list uchar int vertex_indices\nend_header\n"
    )
    rows = np.empty(len(faces), [("count", "u1"), ("corners", "<i4", 3)])
    rows["count"], rows["corners"] = 3, faces
    path.write_bytes(header.encode() + vertices.astype("<f4").tobytes() + rows.tobytes())


def _obj(path: Path, vertices: np.ndarray, faces: np.ndarray) -> None:
    lines = [f"v {x:.6f} {y:.6f} {z:.6f}" for x, y, z in vertices.tolist()]
    lines += [f"f {a} {b} {c}" for a, b, c in (faces + 1).tolist()]
    path.write_text("\n".join(lines) + "\n")


def _glb(path: Path, vertices: np.ndarray, faces: np.ndarray) -> None:
    normals = Shader(faces, len(vertices)).vertex_normals(face_normals(vertices, faces))
    parts = [vertices.astype("<f4"), normals.astype("<f4"), faces.astype("<u4").ravel()]
    binary = b"".join(part.tobytes() for part in parts)  # all of four bytes a number, so every part is aligned
    starts = np.cumsum([0] + [part.nbytes for part in parts]).tolist()
    views = [
        {"buffer": 0, "byteOffset": start, "byteLength": part.nbytes, "target": target}
        for start, part, target in zip(starts, parts, (_VERTEX_DATA, _VERTEX_DATA, _INDEX_DATA), strict=False)
    ]
    count = len(vertices)
    bounds = {"min": vertices.min(0).tolist(), "max": vertices.max(0).tolist()}
    accessors = [
        {"bufferView": 0, "componentType": _FLOAT, "count": count, "type": "VEC3", **bounds},
        {"bufferView": 1, "componentType": _FLOAT, "count": count, "type": "VEC3"},
        {"bufferView": 2, "componentType": _UINT32, "count": faces.size, "type": "SCALAR"},
    ]
    document = {
        "asset": {"version": "2.0", "generator": "ofer reconstruct"},
        "scene": 0, "scenes": [{"nodes": [0]}], "nodes": [{"mesh": 0, "name": path.stem}],
        "meshes": [{"primitives": [{"attributes": {"POSITION": 0, "NORMAL": 1}, "indices": 2}]}],
        "accessors": accessors, "bufferViews": views, "buffers": [{"byteLength": len(binary)}],
    }  # fmt: skip
    text = json.dumps(document, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 4)
    chunks = _chunk(b"JSON", text) + _chunk(b"BIN\0", binary)
    path.write_bytes(b"glTF" + _uint32(2) + _uint32(12 + len(chunks)) + chunks)


def _chunk(kind: bytes, content: bytes) -> bytes:
    return _uint32(len(content)) + kind + content


def _uint32(number: int) -> bytes:
    return number.to_bytes(4, "little")
