"""What a manifest says of a regressor: groups, crop and camera are read, and refused in one line where they do not fit
together."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_bundle import N_EXPRESSION, N_SHAPE, change, folder, read, refusal, write  # noqa: F401

from ofer_models.bundle import Bundle
from ofer_models.bundle.manifest import STAGES
from ofer_models.files.hashing import sha256_of

GROUPS = {"shape": N_SHAPE, "albedo": 4, "expression": N_EXPRESSION, "jaw": 3, "rotation": 3, "camera": 3, "light": 27}


def pairs(groups: dict[str, int]) -> list[list[Any]]:
    return [list(group) for group in groups.items()]


def entry(**changes: Any) -> dict[str, Any]:
    crop = {"align": "five_points", "template": [[x, x] for x in range(5)], "mean": [0.5] * 3, "deviation": [0.5] * 3}
    return {
        "kind": "regressor", "files": {"graph": "regressor.onnx"}, "inputs": {"crop": ["F", 3, 64, 64]},
        "outputs": {"coefficients": ["F", sum(GROUPS.values())]}, "groups": pairs(GROUPS), "crop": crop, **changes,
    }  # fmt: skip


@pytest.fixture
def regressing(folder) -> Path:  # noqa: F811
    (folder / "regressor.onnx").write_bytes(b"stands in for a graph")
    document = read(folder)
    document["files"]["regressor.onnx"] = document["files"]["idrank.onnx"] | {
        "sha256": sha256_of(folder / "regressor.onnx")
    }
    document["stages"]["regressor"] = entry()
    write(folder, document)
    return folder


def test_groups_are_the_columns_in_the_manifests_order(regressing):
    stage = Bundle.load(regressing).stages["regressor"]
    assert stage.kind == "regressor" and list(stage.regression.groups) == list(GROUPS)
    width = stage.regression.width
    parts = stage.regression.split(np.arange(2 * width).reshape(2, width))
    assert {name: part.shape for name, part in parts.items()} == {name: (2, size) for name, size in GROUPS.items()}
    np.testing.assert_array_equal(parts["albedo"][0], N_SHAPE + np.arange(4))
    np.testing.assert_array_equal(parts["light"][1], width + width - 27 + np.arange(27))


def test_the_crop_is_described(regressing):
    crop = Bundle.load(regressing).stages["regressor"].regression.crop
    assert (crop.size, crop.align, crop.channels) == (64, "five_points", "rgb")
    np.testing.assert_array_equal(crop.template[3], [3, 3])
    box = {"align": "box68", "scale": 1.4, "mean": [0] * 3, "deviation": [1] * 3, "channels": "bgr"}
    change(regressing, lambda document: document["stages"]["regressor"].update(crop=box))
    crop = Bundle.load(regressing).stages["regressor"].regression.crop
    assert (crop.align, crop.scale, crop.channels, crop.template) == ("box68", 1.4, "bgr", None)


def test_a_bundle_may_be_a_regressor_alone_but_not_a_part_of_ofer(regressing):
    change(regressing, lambda document: [document["stages"].pop(name) for name in STAGES])
    assert list(Bundle.load(regressing).stages) == ["regressor"]
    other = read(regressing)
    other["stages"]["expgen"] = {}
    change(regressing, lambda document: document["stages"].pop("regressor"))
    assert "identity_context" in refusal(lambda: Bundle.load(regressing))


@pytest.mark.parametrize("name", STAGES)
def test_a_missing_stage_of_ofer_is_named_beside_a_regressor(regressing, name):
    change(regressing, lambda document: document["stages"].pop(name))
    assert f"stages.{name}" in refusal(lambda: Bundle.load(regressing))


def _groups(**sizes: int) -> dict[str, Any]:
    groups = {**GROUPS, **sizes}
    return {"groups": pairs(groups), "outputs": {"coefficients": ["F", sum(groups.values())]}}


@pytest.mark.parametrize(("changes", "said"), [
    ({"groups": pairs(GROUPS | {"hair": 2})}, "groups"),
    ({"groups": GROUPS}, "groups"),
    ({"groups": [["shape", 3], ["shape", 3], ["expression", 2]]}, "twice"),
    ({"groups": [["shape", 3, 3]]}, "[name, size]"),
    ({"groups": pairs(GROUPS | {"jaw": 4})}, "groups.jaw: 4"),
    (_groups(light=9), "groups.light: 9"),
    ({"groups": [["shape", 3]]}, "groups.expression"),
    (_groups(shape=N_SHAPE + 1), "groups.shape: 4, the head has 3"),
    (_groups(expression=N_EXPRESSION + 1), "groups.expression: 3, the head has 2"),
    (_groups(translation=3), "camera and translation"),
    ({"outputs": {"coefficients": ["F", 7]}}, "the sum of the groups"),
    ({"outputs": {"numbers": ["F", sum(GROUPS.values())]}}, "outputs"),
    ({"inputs": {"crop": ["F", 3, 64, 65]}}, "inputs"),
    ({"inputs": {"crop": ["F", 3, "S", "S"]}}, "inputs"),
    ({"inputs": {"crop": ["F", 3, 4096, 4096]}}, "4096 px"),
    ({"inputs": {"crop112": ["F", 3, 64, 64]}}, "inputs"),
    ({"crop": {"align": "five_points", "mean": [0] * 3, "deviation": [1] * 3}}, "crop.template"),
    ({"crop": {"align": "box68", "mean": [0] * 3, "deviation": [1] * 3}}, "crop.scale"),
    ({"crop": {"align": "box68", "scale": 1, "mean": [0] * 3, "deviation": [0] * 3}}, "deviation"),
    ({"crop": {"align": "by_hand", "mean": [0] * 3, "deviation": [1] * 3}}, "align"),
    ({"rotation": "quaternion"}, "rotation"),
    ({"files": {"cond": "regressor.onnx"}}, "files"),
    ({"kind": "graph"}, "kind"),
])  # fmt: skip
def test_what_does_not_fit_together_is_refused_in_one_line(regressing, changes, said):
    change(regressing, lambda document: document["stages"].update(regressor=entry(**changes)))
    assert said in refusal(lambda: Bundle.load(regressing))


@pytest.mark.parametrize("missing", ["groups", "crop"])
def test_a_regressor_without_its_description_is_refused(regressing, missing):
    change(regressing, lambda document: document["stages"]["regressor"].pop(missing))
    assert f"regressor.{missing}" in refusal(lambda: Bundle.load(regressing))


def test_a_translation_needs_the_camera_that_it_is_before(regressing):
    groups = [["shape", 2], ["expression", 1], ["rotation", 3], ["translation", 3]]
    moved = entry(groups=groups, outputs={"coefficients": ["F", 9]}, rotation="euler")
    change(regressing, lambda document: document["stages"].update(regressor=moved))
    assert "focal" in refusal(lambda: Bundle.load(regressing))
    change(regressing, lambda document: document["stages"].update(regressor=moved | {"focal": 1015, "distance": 10}))
    spec = Bundle.load(regressing).stages["regressor"].regression
    assert (spec.rotation, spec.focal, spec.distance) == ("euler", 1015, 10)


def test_no_other_stage_may_be_a_regressor(regressing):
    change(regressing, lambda document: document["stages"].update(expgen=entry()))
    assert "stages.expgen" in refusal(lambda: Bundle.load(regressing))
