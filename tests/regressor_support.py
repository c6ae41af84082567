"""Bundles with a regressor that needs no training: its graph gives fixed coefficients plus a bit of the crop's mean."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from ofer_models.bundle.manifest import REGRESSOR
from ofer_models.bundle.regression import CropSpec, RegressorSpec
from ofer_models.perception.crops import ARCFACE_TEMPLATE
from ofer_models.workshop.bundle_writer import Provenance, regressor_entry, set_stage

SIZE = 112
PROVENANCE = Provenance("a test", "CC0-1.0", True)
GROUPS = {"shape": 20, "expression": 50, "jaw": 3, "rotation": 3, "camera": 3, "albedo": 4, "light": 27, "occlusion": 1}


def write_graph(path: Path, bias: np.ndarray, gain: np.ndarray, size: int = SIZE) -> None:
    """crop (F, 3, S, S) -> coefficients (F, D) = bias + gain * the crop's mean."""
    nodes = [
        helper.make_node("ReduceMean", ["crop", "axes"], ["mean"], keepdims=0),
        helper.make_node("Unsqueeze", ["mean", "one"], ["column"]),
        helper.make_node("MatMul", ["column", "gain"], ["moved"]),
        helper.make_node("Add", ["moved", "bias"], ["coefficients"]),
    ]
    constants = {"axes": np.array([1, 2, 3]), "one": np.array([1]), "gain": gain[None].astype(np.float32),
                 "bias": bias.astype(np.float32)}  # fmt: skip
    graph = helper.make_graph(
        nodes, "regressor",
        [helper.make_tensor_value_info("crop", TensorProto.FLOAT, ["F", 3, size, size])],
        [helper.make_tensor_value_info("coefficients", TensorProto.FLOAT, ["F", len(bias)])],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.checker.check_model(model)
    onnx.save(model, path)


def with_regressor(
    bundle: Path, folder: Path, told: Mapping[str, np.ndarray], moved: Mapping[str, np.ndarray] | None = None
) -> Path:
    """A copy of a bundle whose regressor tells these groups, moved by the crop's mean (0 to 1 from black to white)."""
    shutil.copytree(bundle, folder)
    bias, gain = (
        np.concatenate([np.broadcast_to(part.get(name, 0), size) for name, size in GROUPS.items()])
        for part in (told, moved or {})
    )
    write_graph(folder / "regressor.onnx", bias, gain)
    set_stage(folder, REGRESSOR, entry_of(folder / "regressor.onnx"), PROVENANCE)
    return folder


def entry_of(graph: Path) -> dict[str, Any]:
    """The manifest's entry of such a graph."""
    crop = CropSpec(SIZE, "five_points", np.zeros(3), np.ones(3), ARCFACE_TEMPLATE)
    return regressor_entry(graph, RegressorSpec(dict(GROUPS), crop))
