"""Triangle meshes as OBJ, binary PLY or GLB, written without help: each format needs a few lines of what it can do.

Formats: Wavefront OBJ; the PLY polygon format (Turk 1994); glTF 2.0 (Khronos), whose unit is the metre by definition.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np

from ofer_models.drawing.shading import Shader, face_normals

MeshFormat = Literal["ply", "obj", "glb"]
_FLOAT, _UINT32, _VERTEX_DATA, _INDEX_DATA = 5126, 5125, 34962, 34963  # glTF's numbers for them


@dataclass(frozen=True)
class MeshTexture:
    """A texture (T, T, 3) uint8 RGB, where the corners of triangles lie in it: vt (P, 2) in 0..1, v up, and ft (F, 3);
    and the files beside an OBJ that hold it: name.mtl and name_texture.png.
    """

    picture: np.ndarray
    vt: np.ndarray
    ft: np.ndarray
    name: str

    def encoded(self) -> bytes:
        """As PNG."""
        return cv2.imencode(".png", cv2.cvtColor(self.picture, cv2.COLOR_RGB2BGR))[1].tobytes()

    def write(self, folder: Path) -> None:
        """Write the two files that OBJ meshes of this texture name."""
        (folder / f"{self.name}_texture.png").write_bytes(self.encoded())
        lines = ("newmtl skin", "Ka 0 0 0", "Kd 1 1 1", "Ks 0 0 0", f"map_Kd {self.name}_texture.png")
        (folder / f"{self.name}.mtl").write_text("\n".join(lines) + "\n")


def write_mesh(path: Path, vertices: np.ndarray, faces: np.ndarray, texture: MeshTexture | None = None) -> None:
    """Write vertices (V, 3) and triangles (F, 3) in the format of the path's suffix; a mesh has no unit but GLB's.

    texture: goes into a GLB, is named by an OBJ (`MeshTexture.write` writes it), and is nothing for a PLY.
    """
    vertices, faces = np.asarray(vertices, np.float32), np.asarray(faces, np.int32)
    {".ply": _ply, ".obj": _obj, ".glb": _glb}[path.suffix](path, vertices, faces, texture)


def _ply(path: Path, vertices: np.ndarray, faces: np.ndarray, texture: MeshTexture | None) -> None:
    header = (
        "ply\nformat binary_little_endian 1.0\n"
        f"element vertex {len(vertices)}\nproperty float x\nproperty float y\nproperty float z\n"
        f"element face {len(faces)}\nproperty list uchar int vertex_indices\nend_header\n"
    )
    rows = np.empty(len(faces), [("count", "u1"), ("corners", "<i4", 3)])
    rows["count"], rows["corners"] = 3, faces
    path.write_bytes(header.encode() + vertices.astype("<f4").tobytes() + rows.tobytes())


def _obj(path: Path, vertices: np.ndarray, faces: np.ndarray, texture: MeshTexture | None) -> None:
    lines = [f"v {x:.6f} {y:.6f} {z:.6f}" for x, y, z in vertices.tolist()]
    if texture is None:
        lines += [f"f {a} {b} {c}" for a, b, c in (faces + 1).tolist()]
    else:
        lines = [f"mtllib {texture.name}.mtl", *lines, *(f"vt {u:.6f} {v:.6f}" for u, v in texture.vt.tolist())]
        both = np.stack([faces, texture.ft], axis=-1) + 1
        lines += ["usemtl skin", *("f " + " ".join(f"{v}/{t}" for v, t in corners) for corners in both.tolist())]
    path.write_text("\n".join(lines) + "\n")


def _glb(path: Path, vertices: np.ndarray, faces: np.ndarray, texture: MeshTexture | None) -> None:
    normals = Shader(faces, len(vertices)).vertex_normals(face_normals(vertices, faces))
    attributes = {"POSITION": vertices, "NORMAL": normals}
    if texture is not None:
        vertex, place, faces = _split(faces, texture.ft, len(vertices))
        attributes = {name: values[vertex] for name, values in attributes.items()}
        attributes["TEXCOORD_0"] = texture.vt[place] * [1, -1] + [0, 1]  # glTF's v points down
    # All of four bytes a number, so every part is aligned; the picture comes last.
    parts = [values.astype("<f4").tobytes() for values in attributes.values()] + [faces.astype("<u4").tobytes()]
    targets: list[int | None] = [_VERTEX_DATA] * len(attributes) + [_INDEX_DATA]
    if texture is not None:
        picture = texture.encoded()
        parts.append(picture + bytes(-len(picture) % 4))
        targets.append(None)
    starts = np.cumsum([0] + [len(part) for part in parts]).tolist()
    views = [
        {"buffer": 0, "byteOffset": start, "byteLength": len(part)} | ({"target": target} if target else {})
        for start, part, target in zip(starts, parts, targets, strict=False)
    ]
    if texture is not None:
        views[-1]["byteLength"] = len(picture)
    placed = attributes["POSITION"]
    bounds = {"min": placed.min(0).tolist(), "max": placed.max(0).tolist()}
    accessors = [
        {"bufferView": number, "componentType": _FLOAT, "count": len(values), "type": f"VEC{values.shape[1]}"}
        for number, values in enumerate(attributes.values())
    ]
    accessors[0] |= bounds
    indices = {"bufferView": len(accessors), "componentType": _UINT32, "count": faces.size, "type": "SCALAR"}
    primitive: dict[str, Any] = {
        "attributes": {name: number for number, name in enumerate(attributes)}, "indices": len(accessors),
    }  # fmt: skip
    document: dict[str, Any] = {
        "asset": {"version": "2.0", "generator": "ofer reconstruct"},
        "scene": 0, "scenes": [{"nodes": [0]}], "nodes": [{"mesh": 0, "name": path.stem}],
        "meshes": [{"primitives": [primitive]}],
        "accessors": [*accessors, indices], "bufferViews": views, "buffers": [{"byteLength": starts[-1]}],
    }  # fmt: skip
    if texture is not None:
        primitive["material"] = 0
        surface = {"baseColorTexture": {"index": 0}, "metallicFactor": 0.0, "roughnessFactor": 1.0}
        document |= {
            "materials": [{"name": "skin", "pbrMetallicRoughness": surface}], "textures": [{"source": 0}],
            "images": [{"bufferView": len(views) - 1, "mimeType": "image/png"}],
        }  # fmt: skip
    text = json.dumps(document, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 4)
    chunks = _chunk(b"JSON", text) + _chunk(b"BIN\0", b"".join(parts))
    path.write_bytes(b"glTF" + _uint32(2) + _uint32(12 + len(chunks)) + chunks)


def _split(faces: np.ndarray, ft: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A vertex for each place that one has in the texture: which vertex (n,) and place (n,) each is, and triangles of
    them (F, 3). The first `count` are the vertices themselves; what seams need besides comes after them.
    """
    pairs, corners = np.unique(np.stack([faces, ft], axis=-1).reshape(-1, 2), axis=0, return_inverse=True)
    further = np.concatenate([[False], pairs[1:, 0] == pairs[:-1, 0]])  # a vertex's second place and those after it
    number = pairs[:, 0].copy()
    number[further] = count + np.arange(further.sum())
    place = np.zeros(count + further.sum(), np.int64)
    place[number] = pairs[:, 1]
    return np.concatenate([np.arange(count), pairs[further, 0]]), place, number[corners.ravel()].reshape(-1, 3)


def _chunk(kind: bytes, content: bytes) -> bytes:
    return _uint32(len(content)) + kind + content


def _uint32(number: int) -> bytes:
    return number.to_bytes(4, "little")
