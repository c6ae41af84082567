"""Files in the release's own formats with random numbers inside: checkpoints, FLAME's Python-2 pickle and the rest."""

from __future__ import annotations

import io
import pickle
import struct
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from recipe import recipe_state

from ofer_models.head.model import HeadModel
from ofer_models.workshop.networks import replay
from ofer_models.workshop.networks.arcface import ArcFace
from ofer_models.workshop.networks.denoiser import Denoiser
from ofer_models.workshop.networks.farl import Farl
from ofer_models.workshop.networks.rank import RankNetwork
from ofer_models.workshop.official.checkpoint import NetworkSizes
from ofer_models.workshop.official.files import OfficialFiles
from ofer_models.workshop.official.flame import HeadSizes
from ofer_models.workshop.official.importer import OfficialSizes

SMALL = OfficialSizes(
    HeadSizes(n_shape=6, n_expression=4, n_directions=12, n_frontal=8),
    NetworkSizes(
        idgen=(6, (6, 8, 8), 12),  # a norm over very few channels is nearly a step, which no two programs share
        expgen=(7, (7, 8, 8), 22),
        rank={"n_vertices": 8, "context": 22, "widths": (32, 16, 1)},
        arcface={"depths": (1, 1, 1, 1), "widths": (8, 8, 16, 16), "size": 32, "features": 12},
        farl={"size": 24, "patch": 8, "width": 24, "layers": 1, "heads": 4, "features": 10},
    ),
)


class Stored:
    """An object of a class that is not installed here: pickled under another class's name, with a state."""

    pickled_as = ("", "")

    def __init__(self, **state: Any) -> None:
        self.__dict__.update(state)


class Ch(Stored):
    pickled_as = ("chumpy.ch", "Ch")


class Select(Stored):
    pickled_as = ("chumpy.reordering", "Select")


class CscMatrix(Stored):
    pickled_as = ("scipy.sparse.csc", "csc_matrix")


class Python2Pickler(pickle._Pickler):
    """Writes what Python 2's cPickle wrote: protocol 2, byte strings for arrays and keys, old module names."""

    dispatch: ClassVar[dict[Any, Any]] = dict(pickle._Pickler.dispatch)

    def __init__(self, file: io.BufferedIOBase) -> None:
        super().__init__(file, protocol=2)

    def _save_string(self, value: bytes | str) -> None:
        raw = value.encode("latin1") if isinstance(value, str) else value
        self.write(b"T" + struct.pack("<i", len(raw)) + raw)
        self.memoize(value)

    def save_global(self, obj: Any, name: str | None = None) -> None:
        if getattr(obj, "pickled_as", None):
            self.write("c{}\n{}\n".format(*obj.pickled_as).encode())
            self.memoize(obj)
        else:
            super().save_global(obj, name)

    dispatch[bytes] = dispatch[str] = _save_string


def dump_python2(content: Any, path: Path) -> Path:
    """Pickle as Python 2 would."""
    with path.open("wb") as file:
        Python2Pickler(file).dump(content)
    return path


def chumpy(array: np.ndarray) -> Ch:
    """An array as chumpy stores one, with the state it keeps beside the numbers."""
    return Ch(x=array, _parents={}, _cache={"r": None, "drs": {}}, _dirty_vars={"x"}, _itr=None, __dummy=())


def sparse(dense: np.ndarray) -> CscMatrix:
    """A matrix in scipy's compressed-column form."""
    columns, rows = np.nonzero(dense.T)
    starts = np.concatenate([[0], np.cumsum((dense != 0).sum(0))]).astype(np.int32)
    return CscMatrix(_shape=dense.shape, maxprintlen=50, indices=rows.astype(np.int32), indptr=starts,
                     data=dense[rows, columns])  # fmt: skip


def flame_arrays(n_directions: int, n_vertices: int = 40, seed: int = 0) -> dict[str, np.ndarray]:
    """Random numbers in FLAME's fields, as plain arrays."""
    rng = np.random.default_rng(seed)
    weights = rng.random((n_vertices, 5))
    regressor = rng.random((5, n_vertices)) * (rng.random((5, n_vertices)) < 0.3)
    kinematics = np.array([[2**32 - 1, 0, 1, 1, 1], range(5)], np.int64)
    return {
        "f": rng.integers(0, n_vertices, (2 * n_vertices, 3)).astype(np.uint32),
        "v_template": rng.normal(0, 0.1, (n_vertices, 3)),
        "shapedirs": rng.normal(0, 0.001, (n_vertices, 3, n_directions)),
        "posedirs": rng.normal(0, 0.001, (n_vertices, 3, 36)),
        "J_regressor": regressor / regressor.sum(1, keepdims=True),
        "kintree_table": kinematics,
        "weights": weights / weights.sum(1, keepdims=True),
    }


def write_flame(path: Path, arrays: dict[str, np.ndarray]) -> Path:
    """FLAME's pickle: directions and template as chumpy objects, the regressor sparse, and fields nobody needs."""
    stored: dict[str, Any] = dict(arrays) | {"bs_style": "lbs", "bs_type": "lrotmin", "J": np.zeros((5, 3))}
    stored["shapedirs"] = chumpy(arrays["shapedirs"])
    template = arrays["v_template"]
    order = np.arange(template.size)[::-1].copy()
    stored["v_template"] = Select(a=chumpy(template.ravel()[::-1].copy()), idxs=order, preferred_shape=template.shape,
                                  _dirty_vars=set())  # fmt: skip
    stored["J_regressor"] = sparse(arrays["J_regressor"])
    return dump_python2(stored, path)


def landmark_tables(n_faces: int, seed: int = 1) -> dict[str, Any]:
    """A landmark embedding with torch tensors inside, as MICA's file has them."""
    rng = np.random.default_rng(seed)
    triangle, bary = rng.integers(0, n_faces, (1, 68)), rng.random((1, 68, 3)).astype(np.float32)
    bary /= bary.sum(-1, keepdims=True)
    return {
        "full_lmk_faces_idx": triangle, "full_lmk_bary_coords": bary,
        "static_lmk_faces_idx": triangle[0, 17:], "static_lmk_bary_coords": bary[0, 17:].astype(np.float64),
        "dynamic_lmk_faces_idx": torch.from_numpy(rng.integers(0, n_faces, (79, 17))),
        "dynamic_lmk_bary_coords": torch.from_numpy(rng.random((79, 17, 3)).astype(np.float32)),
    }  # fmt: skip


def encoder_states(sizes: NetworkSizes, seed: int) -> dict[str, dict[str, torch.Tensor]]:
    """`arcface` and `farl` as the release stores them: counters and (part of) the text tower included."""
    with torch.device("meta"):
        arcface, farl = ArcFace(**sizes.arcface).official_slots(), Farl(**sizes.farl).official_slots()
    counters = {name.replace("running_mean", "num_batches_tracked"): torch.tensor(7)
                for name in arcface if name.endswith("running_mean")}  # fmt: skip
    text = text_tower(12) if not sizes.farl else text_tower(1, width=8, words=20)
    return {"arcface": recipe_state(arcface, seed) | counters, "farl": recipe_state(farl, seed) | text}


def text_tower(layers: int, width: int = 512, words: int = 49408) -> dict[str, torch.Tensor]:
    """CLIP's other half, which OFER's files carry along."""
    shapes = {
        "logit_scale": (), "positional_embedding": (77, width), "text_projection": (width, width),
        "token_embedding.weight": (words, width), "ln_final.weight": (width,), "ln_final.bias": (width,),
    }  # fmt: skip
    for i in range(layers):
        block = {
            "attn.in_proj_weight": (3 * width, width), "attn.in_proj_bias": (3 * width,),
            "attn.out_proj.weight": (width, width), "attn.out_proj.bias": (width,),
            "ln_1.weight": (width,), "ln_1.bias": (width,), "ln_2.weight": (width,), "ln_2.bias": (width,),
            "mlp.c_fc.weight": (4 * width, width), "mlp.c_fc.bias": (4 * width,),
            "mlp.c_proj.weight": (width, 4 * width), "mlp.c_proj.bias": (width,),
        }  # fmt: skip
        shapes |= {f"transformer.resblocks.{i}.{name}": shape for name, shape in block.items()}
    return {name: torch.randn(shape) for name, shape in shapes.items()}


def denoiser_state(size: tuple[int, tuple[int, ...], int], seed: int) -> dict[str, torch.Tensor]:
    """`net` of IdGen or ExpGen, the maps included under the names the importer gives them."""
    with torch.device("meta"):
        return recipe_state(Denoiser(*size).official_slots(), seed)


def as_released(role: replay.Network, state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """A state dict with maps as a file of the release has it: no maps, only the copies of those of training."""
    maps = replay.replay_maps(role, "training")
    left_over = {name.replace("to_qkv.15", "qkv"): value for name, value in maps.items() if ".to_qkv.15." in name}
    return {name: value for name, value in state.items() if ".to_qkv." not in name} | left_over


def write_checkpoint(path: Path, states: dict[str, dict[str, torch.Tensor]]) -> Path:
    """A trainer's file: the state dicts between schedule, a second copy of the net, optimiser and counters."""
    net = states["net"]
    parameter = next(iter(net.values()))
    training = {
        "var_sched": {"betas": torch.linspace(1e-4, 1e-2, 1000)},
        "diffusion": {f"net.{name}": tensor for name, tensor in net.items()},
        "optimizer": {"state": {0: {"step": torch.tensor(3.0), "exp_avg": torch.zeros_like(parameter)}},
                      "param_groups": [{"lr": 1e-3, "betas": (0.9, 0.999), "params": [0]}]},
        "scheduler": {"best": np.float64(0.25), "mode": "min", "num_bad_epochs": 1},
        "epoch": 400, "global_step": 123456, "batch_size": 64,
    }  # fmt: skip
    torch.save(states | training, path)
    return path


def write_official(
    folder: Path, sizes: OfficialSizes, arrays: dict[str, np.ndarray], tables: dict[str, Any], released: bool
) -> OfficialFiles:
    """All files in a folder; released: without the maps, as the real ones."""
    networks = sizes.networks
    (folder / "FLAME2020").mkdir(parents=True)
    states = {}
    for seed, (role, size) in enumerate((("idgen", networks.idgen), ("expgen", networks.expgen)), start=1):
        net = denoiser_state(size, seed)
        states[role] = {"net": as_released(role, net) if released else net} | encoder_states(networks, seed + 10)
    del states["idgen"]["farl"]
    with torch.device("meta"):
        slots = RankNetwork(**networks.rank).official_slots()
    states["idrank"] = {"net": recipe_state(slots, 3)} | encoder_states(networks, 13)
    names = {role: f"model_{role}_flame20.tar" for role in ("idgen", "expgen")} | {"idrank": "model_idrank.tar"}
    for role in ("idgen", "expgen", "idrank"):
        write_checkpoint(folder / names[role], states.pop(role))
    write_flame(folder / "FLAME2020" / "generic_model.pkl", arrays)
    frontal = np.linspace(0, len(arrays["v_template"]) - 1, sizes.head.n_frontal).astype(np.int64)
    np.save(folder / "frontindices.npy", frontal)
    np.save(folder / "landmark_embedding.npy", np.array(tables, dtype=object), allow_pickle=True)
    paths = {role: folder / name for role, name in names.items()}
    return OfficialFiles(**paths, flame=folder / "FLAME2020" / "generic_model.pkl")


def head_like_arrays(head: HeadModel, n_vertices: int = 5023, n_faces: int = 9976) -> dict[str, np.ndarray]:
    """FLAME's fields in full size with the shape of another, smaller head: surplus vertices and triangles repeat
    others.
    """
    more, again = n_vertices - head.n_vertices, n_faces - len(head.faces)
    arrays = flame_arrays(400, n_vertices)
    arrays["v_template"] = np.concatenate([head.v_template, head.v_template[:more]]).astype(np.float64)
    arrays["f"] = np.concatenate([head.faces, head.faces[:again]]).astype(np.uint32)
    arrays["weights"] = np.concatenate([head.lbs_weights, head.lbs_weights[:more]]).astype(np.float64)
    padding = np.zeros((len(head.parents), more))
    arrays["J_regressor"] = np.concatenate([head.joint_regressor, padding], 1).astype(np.float64)
    arrays["shapedirs"] *= 0.02  # coefficients from random networks are large
    arrays["posedirs"] *= 0.02
    return arrays


def write_full_size(folder: Path, head: HeadModel) -> OfficialFiles:
    """Official files in full size, without maps as the released ones; head gives a face's geometry and landmarks."""
    tables = landmark_tables(9976)
    embedding = head.embeddings["landmarks68"]
    tables["full_lmk_faces_idx"], tables["full_lmk_bary_coords"] = embedding.triangle[None], embedding.bary[None]
    return write_official(folder, OfficialSizes(), head_like_arrays(head), tables, released=True)


def write_small(folder: Path) -> OfficialFiles:
    """Small official files; their checkpoints carry their own maps, since replayed ones exist in full size only."""
    arrays = flame_arrays(SMALL.head.n_directions)
    return write_official(folder, SMALL, arrays, landmark_tables(len(arrays["f"])), released=False)
