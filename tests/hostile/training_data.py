"""What training reads: shards of pictures, states to resume from, FLAME's files, lists of photographs, coefficients."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from hostile.parts import Case, Kind, object_npy, parameters, payload, pickled, raw, shared, torch_saved


def shard(change: Callable[[dict[str, np.ndarray]], Any]) -> Case:
    def make(folder: Path) -> Path:
        arrays: dict[str, Any] = {
            "landmarks": np.zeros((2, 478, 6), np.float16), "crop": np.zeros((2, 112, 112, 3), np.uint8),
            "betas": np.zeros((2, 3)), "expression": np.zeros((2, 2)), "jaw": np.zeros((2, 3)),
            "occlusion": np.zeros(2), "visible": np.zeros((2, 1), np.uint8), "covered": np.zeros((2, 1), np.uint8),
            "index": np.arange(2), "drawn": np.int64(2),
        }  # fmt: skip
        change(arrays)
        np.savez(folder / "0000000.npz", **arrays)
        return folder

    return make


SHARDS: dict[str, Case] = {
    "objects": shard(lambda a: a.update(betas=np.array([payload(), 1], object))),
    "a missing column": shard(lambda a: a.pop("crop")),
    "a short column": shard(lambda a: a.update(jaw=np.zeros((1, 3)))),
    "text": shard(lambda a: a.update(betas=np.full((2, 3), "x"))),
    "an unknown array": shard(lambda a: a.update(x=np.zeros(2))),
    "no rows at all": shard(lambda a: a.update({k: v[:0] for k, v in a.items() if k != "drawn"})),
    "a scalar column": shard(lambda a: a.update(index=np.int64(3))), "garbage": lambda folder: raw(
        "0000000.npz", b"PK nothing")(folder).parent,
    "an empty file": lambda folder: raw("0000000.npz", b"")(folder).parent,
    "an empty folder": lambda folder: folder,
}  # fmt: skip
_STATE = ("plan", "step", "running", "best_loss", "rows", "network", "average", "best", "optimiser", "optimizer",
          "rate", "batches", "noise", "torch", "cuda")  # fmt: skip
RESUMES: dict[str, Case] = {
    "a payload": torch_saved(lambda: {"plan": payload()}), "garbage": raw("model.tar", b"garbage"),
    "empty": raw("model.tar", b""), "a list": torch_saved(lambda: [1]), "no plan": torch_saved(lambda: {"step": 3}),
    "a plan that is a list": torch_saved(lambda: {name: [] for name in _STATE}),
    "another plan": torch_saved(lambda: {name: [] for name in _STATE} | {"plan": {"seed": 2}}),
}  # fmt: skip


def flame(change: Callable[[dict[str, Any]], Any]) -> Case:
    """FLAME's pickle, small, changed."""

    def make(folder: Path) -> Path:
        from official_inputs import flame_arrays

        arrays: dict[str, Any] = flame_arrays(12)
        change(arrays)
        (folder / "generic_model.pkl").write_bytes(pickle.dumps(arrays, 2))
        return folder / "generic_model.pkl"

    return make


FLAMES: dict[str, Case] = {
    "a missing field": flame(lambda a: a.pop("weights")),
    "a scalar": flame(lambda a: a.update(v_template=np.float64(1))),
    "a triangle outside": flame(lambda a: a.update(f=np.array([[0, 1, 4000]]))), "no triangles": flame(
        lambda a: a.update(f=np.zeros((0, 3), int))), "a scalar triangle": flame(lambda a: a.update(f=np.int64(3))),
    "not finite": flame(lambda a: a["shapedirs"].fill(np.nan)), "complex": flame(lambda a: a.update(
        weights=a["weights"] * 1j)), "another shape": flame(lambda a: a.update(posedirs=np.zeros((3, 3)))),
    "text": flame(lambda a: a.update(v_template="x")), "a list of lists of 1e9": flame(
        lambda a: a.update(shapedirs=shared(3, 1000))), "a payload": flame(lambda a: a.update(J=payload())),
    "a dictionary in a field": flame(lambda a: a.update(f={"a": 1})), "a list": pickled(lambda: [1, 2]),
    "a web page": raw("generic_model.pkl", b"<html>sign in</html>"), "no file": lambda folder: folder / "x.pkl",
}  # fmt: skip
_TABLES = {"lmk_face_idx": np.zeros(3, int), "lmk_b_coords": np.full((3, 3), 1 / 3), "landmark_indices": np.arange(3)}
MEDIAPIPES: dict[str, Case] = {
    "a triangle of -1": lambda f: parameters(**_TABLES | {"lmk_face_idx": np.full(3, -1)})(f),
    "a point of 468": lambda f: parameters(**_TABLES | {"landmark_indices": np.full(3, 468)})(f),
    "weights of NaN": lambda f: parameters(**_TABLES | {"lmk_b_coords": np.full((3, 3), np.nan)})(f),
    "a scalar": lambda f: parameters(**_TABLES | {"lmk_face_idx": np.int64(1)})(f),
    "no landmarks": lambda f: parameters(**{name: array[:0] for name, array in _TABLES.items()})(f),
    "objects": lambda f: parameters(**_TABLES | {"lmk_face_idx": np.array([payload()] * 3, object)})(f),
    "nothing": lambda f: parameters()(f),
}  # fmt: skip


def listing(content: Callable[[], Any]) -> Case:
    """A list of actors as MICA keeps them."""

    def make(folder: Path) -> Path:
        (folder / "image_paths" / "a").mkdir(parents=True)
        np.save(folder / "image_paths" / "a" / "SET.npy", np.array(content(), dtype=object), allow_pickle=True)
        return folder

    return make


LISTINGS: dict[str, Case] = {
    "a payload": listing(lambda: {"actor": payload()}), "a number": listing(lambda: {"actor": 3}),
    "one of a pair": listing(lambda: {"actor": ["a.npz"]}),
    "actors of numbers": listing(lambda: {3: ["a.npz", ["b"]]}),
    "a file outside": listing(lambda: {"actor": ["../../a.npz", ["b.jpg"]]}),
    "a picture anywhere": listing(lambda: {"actor": ["a.npz", ["/etc/passwd"]]}),
    "no parameters": listing(lambda: {"actor": ["a.npz", ["b.jpg"]]}), "a list": listing(lambda: 3),
    "pictures of numbers": listing(lambda: {"actor": ["a.npz", [1, 2]]}), "nothing": lambda folder: folder,
}  # fmt: skip
PARAMETERS: dict[str, Case] = {
    "objects": lambda folder: parameters(shape=np.array([payload()], object))(folder),
    "text": parameters(shape=np.array(["x"])), "too short": parameters(shape=np.zeros(1)), "nothing": parameters(),
    "not finite": parameters(shape=np.full(400, np.nan)),
    "a pose of 7": parameters(shape=np.zeros(400), pose=np.zeros(7)),
    "a payload": object_npy(lambda: {"shape": payload()}), "no dictionary": object_npy(lambda: 3),
    "garbage": raw("p.npz", b"PKgarbage"),
}  # fmt: skip


def _shards(path: Path) -> Any:
    from ofer_models.workshop.pictures import dataset

    return dataset.load(path)


def _resume(path: Path) -> Any:
    from ofer_models.workshop.train.loop import Keeper

    return Keeper(path).load({"seed": 1})


def _parameters(path: Path) -> Any:
    from ofer_models.workshop.train.photographs import read_parameters

    return read_parameters(path, 300, 50)


def _flame(path: Path) -> Any:
    from official_inputs import SMALL

    from ofer_models.workshop.official.flame import read_model

    return read_model(path, SMALL.head)


def _mediapipe(path: Path) -> Any:
    from ofer_models.workshop.official.flame import read_mediapipe

    return read_mediapipe(path, 80)


def _listing(path: Path) -> Any:
    from ofer_models.workshop.train.photographs import find

    return find(path, "mica")


KINDS: dict[str, Kind] = {
    "shards": (_shards, SHARDS), "resume": (_resume, RESUMES), "parameters": (_parameters, PARAMETERS),
    "flame": (_flame, FLAMES), "mediapipe": (_mediapipe, MEDIAPIPES), "listing": (_listing, LISTINGS),
}  # fmt: skip
