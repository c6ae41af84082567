"""A small stand-in for MakeHuman's assets, which tests do not download: the same names, squares for meshes."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ofer_models.head.model import HeadModel
from ofer_models.workshop.pictures.people.assets import Library, Mesh
from ofer_models.workshop.pictures.people.looks import BEARDS, LONG, SHORT

_SIDE = 320  # px of its textures


def small_library(head: HeadModel) -> Library:
    """Squares of 2 cm before the brows, lids, mouth and crown of the head; textures of one colour each."""
    marks = head.landmarks(head.v_template, "landmarks68")
    places = {
        "eyebrows": marks[19], "eyelashes": marks[37], "hair": marks[27] + [0, 0.09, 0], "teeth": marks[62],
        "tongue": marks[66], "clothes": marks[27],
    }  # fmt: skip
    names = [f"eyebrows/eyebrow{n:03d}" for n in range(1, 13)]
    names += [f"eyelashes/{name}" for name in ("Eyelashes01", "eyelashes02", "eyelashes03", "eyelashes04")]
    names += [f"hair/{name}" for name in (*LONG, *SHORT, *BEARDS)]
    names += ["teeth/Teeth_Base", *(f"teeth/Teeth_Shape{n:02d}" for n in range(1, 6)), "tongue/tongue01"]
    names += [f"clothes/{name}" for name in ("glasses", "fedora", "Fishing_Hat_01", "pith_helmet")]
    rng = np.random.default_rng(0)
    textures, labels, meshes = [], [], {}

    def texture(label: str) -> int:
        textures.append(np.full((_SIDE, _SIDE, 4), [*rng.integers(60, 220, 3), 255], np.uint8))
        labels.append(label)
        return len(textures) - 1

    square = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) * 0.01
    uv = np.array([[[0, 1], [1, 1], [1, 0]], [[0, 1], [1, 0], [0, 0]]], np.float32)
    for name in dict.fromkeys(names):
        corners = places[name.split("/")[0]] + np.column_stack([square, np.full(4, 0.004)])
        number = texture(f"{name}/a.png")
        faces = np.array([[0, 1, 2], [0, 2, 3]], np.int32)
        meshes[name] = Mesh(corners.astype(np.float32), faces, uv, np.array([number]))
    for age in ("young", "old"):
        texture(f"skins/{age}_asian_female/a.png")
    texture("eyes/a/brown_eye.png")
    texture("fabric/a/a.png")
    head_uv = np.full((len(head.faces), 3, 2), 0.5, np.float32)
    return Library(
        head.v_template, np.arange(head.n_vertices), head.faces, head_uv, meshes, np.stack(textures), tuple(labels)
    )


def write_people(folder: Path, head: HeadModel, count: int) -> None:
    """`pictures` and `held_out` as `ofer train eyes` draws them, a shard of noise each with heads in it, every second
    face hidden."""
    rng = np.random.default_rng(0)
    pose = np.concatenate([np.diag([1.0, -1, -1]), [[0], [0.0], [0.7]]], axis=1)
    camera = np.array([[420.0, 0, 80], [0, 420, 80], [0, 0, 1]])
    for name in ("pictures", "held_out"):
        (folder / name).mkdir()
        betas = rng.normal(0, 0.3, (count, head.n_shape)).astype(np.float32)
        heads = head.landmarks(head.decode(betas), "mediapipe")
        seen = heads @ pose[:, :3].T + pose[:, 3]
        points = np.zeros((count, 478, 2), np.float32)
        points[:, :468] = (seen @ camera.T)[..., :2] / seen[..., 2:]
        visible = np.ones((count, 478), bool)
        visible[1::2, :300] = False
        np.save(folder / name / "00000.npy", rng.integers(0, 255, (count, 160, 160, 3), np.uint8))
        np.savez(
            folder / name / "00000.npz", visible=np.packbits(visible, axis=1), points=points, betas=betas,
            expression=np.zeros((count, head.n_expression), np.float32), jaw=np.zeros((count, 3), np.float32),
            camera=np.tile(camera, (count, 1, 1)).astype(np.float32),
            pose=np.tile(pose, (count, 1, 1)).astype(np.float32),
        )  # fmt: skip
