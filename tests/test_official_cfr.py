"""CFR-GAN's regressor and the Basel Face Model: parity with the public code, the import, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from cfr_inputs import SIDES, basel_fields, coefficients, picture, regressor_state, write_basel, write_regressor
from recipe import relative_error

from ofer_models.bundle.manifest import Bundle, BundleError
from ofer_models.drawing.shading import Shader, face_normals
from ofer_models.head.albedo import Albedo
from ofer_models.head.decoders import HypothesisDecoder
from ofer_models.head.model import HeadModel, HeadModelError, rotation_matrices
from ofer_models.head.spherical_harmonics import irradiance
from ofer_models.runtime.onnxruntime_backend import OnnxStage
from ofer_models.workshop.networks.cfr import GROUPS, CfrRegressor, split
from ofer_models.workshop.official.files import OfficialImportError

pytest.importorskip("scipy", reason="writes .mat files: `make train-env`")
from ofer_models.workshop.official.basel import METRES, BaselError, read_basel
from ofer_models.workshop.official.cfr_importer import DISTANCE, FOCAL, import_cfr

SHALLOW = (1, 1, 1, 1)
# Recorded from the public code of CFR-GAN (mmRegressor) with the weights, picture and face model of `cfr_inputs`: every
# 24th coefficient of two pictures, the mean size of the four feature maps, three vertices in decimetres before the
# camera, their lit colours, and three landmarks in px.
COEFFICIENTS = [
    [0.2599712, 0.09721831, -0.07513651, 0.3151375, -0.4356289, 0.1032649, -0.1132319, 0.7248396, -0.3722979, 0.634772,
     -0.978518],
    [0.2568582, 0.1082884, -0.06935144, 0.3240301, -0.4258896, 0.1016396, -0.1137652, 0.7205858, -0.3680902, 0.639452,
     -0.9872596],
]  # fmt: skip
MAPS = [0.3772457, 0.5244266, 0.4331503, 0.4331503]
SHOWN = [0, 500, 1516]
PLACED = [[-0.367346, -1.04422, -0.548451], [-0.116283, -0.372233, 0.101993], [0.887769, 1.21688, -0.529359]]
COLOURS = [[-0.362154, 1.2054, 0.364316], [0.0728012, 0.712131, 0.560404], [1.0324, -0.618431, 0.439271]]
LANDMARKS = [[147.547, 202.763], [151.017, 168.043], [62.9867, 136.848]]


@pytest.fixture(scope="module")
def network() -> CfrRegressor:
    network = CfrRegressor()
    network.load_official(regressor_state((3, 4, 6, 3)))
    return network.eval()


@pytest.fixture(scope="module")
def basel(tmp_path_factory):
    arrays, albedo = read_basel(write_basel(tmp_path_factory.mktemp("basel") / "BFM_model_80.mat"))
    head = HeadModel(arrays)
    return head, Albedo(albedo, head)


@torch.no_grad()
def test_the_regressor_gives_what_the_public_code_gives(network):
    maps, found = network.maps(picture())
    assert relative_error(found[:, ::24], COEFFICIENTS) < 1e-4
    assert relative_error([float(part.abs().mean()) for part in maps], MAPS) < 1e-4
    assert [part.shape[1] for part in maps] == [512, 1024, 2048, 2048]


def test_the_groups_are_the_files(network):
    parts = split(network(picture()[:1]))
    assert {name: part.shape[1] for name, part in parts.items()} == GROUPS and sum(GROUPS.values()) == 257
    written = network.official_state_dict()
    for name, tensor in regressor_state((3, 4, 6, 3)).items():
        assert torch.equal(written[name], tensor), name


def placed(head: HeadModel, parts: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Vertices (V, 3) m before a camera at (0, 0, DISTANCE) that looks back along z, and the head's rotation (3, 3)."""
    turn = np.eye(3)
    for axis in range(3):
        turn = rotation_matrices(np.eye(3)[axis] * parts["rotation"][axis]) @ turn
    return head.decode(parts["shape"], parts["expression"]) @ turn.T + METRES * parts["translation"], turn


def test_the_face_is_placed_and_lit_as_by_the_public_code(basel):
    head, albedo = basel
    parts = {name: part.numpy() for name, part in split(torch.from_numpy(coefficients(2)[1])).items()}
    vertices, turn = placed(head, parts)
    assert relative_error(vertices[SHOWN] / METRES, PLACED) < 1e-4
    decoded = head.decode(parts["shape"], parts["expression"])
    normals = Shader(head.faces, head.n_vertices).vertex_normals(face_normals(decoded, head.faces)) @ turn.T
    colours = albedo.colours(parts["albedo"]) * irradiance(normals, parts["light"])
    assert relative_error(colours[SHOWN], COLOURS) < 1e-4
    marks = head.landmarks(vertices, "landmarks68")[[0, 30, 67]]
    depth = METRES * DISTANCE - marks[:, 2]
    pixels = np.stack([112 + FOCAL * marks[:, 0] / depth, 111 - FOCAL * marks[:, 1] / depth], -1)
    assert relative_error(pixels, LANDMARKS) < 1e-4


def test_both_files_give_the_same_head(tmp_path):
    """Microsoft's file counts from one and has bytes of colour, CFR's from zero and 0..1."""
    first = read_basel(write_basel(tmp_path / "BFM_model_80.mat"))
    other = read_basel(write_basel(tmp_path / "BFM_model_front.mat", compressed=False, first=1))
    for ours, theirs in zip(first, other, strict=True):
        assert ours.keys() == theirs.keys()
        for name, array in ours.items():
            if array.dtype.kind == "f":
                np.testing.assert_allclose(theirs[name], array, atol=1e-6, err_msg=name)
            else:
                np.testing.assert_array_equal(theirs[name], array, err_msg=name)


def test_a_head_without_joints_decodes_and_lets_a_jaw_move_nothing(basel):
    head, _ = basel
    assert not head.has_joints and (head.n_shape, head.n_expression) == (80, 64)
    rng = np.random.default_rng(0)
    betas, expressions = rng.normal(size=80).astype(np.float32), rng.normal(size=(3, 64)).astype(np.float32)
    jaws = np.array([[0, 0, 0], [0.3, 0, 0], [0, 0.1, 0]], np.float32)
    directions = head.shapedirs
    expected = head.v_template + directions[..., :80] @ betas + np.moveaxis(directions[..., 80:] @ expressions.T, -1, 0)
    np.testing.assert_allclose(head.decode(betas, expressions, jaws), expected, atol=1e-6)
    np.testing.assert_allclose(HypothesisDecoder(head)(head.identity(betas), expressions, jaws), expected, atol=1e-6)


def test_a_head_has_all_joints_or_none(basel):
    head, _ = basel
    arrays = {"v_template": head.v_template, "shapedirs": head.shapedirs, "faces": head.faces,
              "expression_names": np.array(head.expression_names), "lbs_weights": head.lbs_weights}  # fmt: skip
    with pytest.raises(HeadModelError, match=r"lacks posedirs, J_regressor, kintree_table"):
        HeadModel(arrays)


@pytest.mark.parametrize("change, said", [
    ({"mean": np.zeros((3, 3))}, "do not fit"), ({"tex_dir": np.zeros((4, 3))}, "do not fit"),
    ({"mean": np.full((1517, 3), np.nan)}, "not finite"), ({"vt": np.zeros((3, 2))}, "do not fit"),
])  # fmt: skip
def test_an_albedo_that_does_not_fit_is_refused(basel, change, said):
    head, albedo = basel
    with pytest.raises(HeadModelError, match=said):
        Albedo({"mean": albedo.mean, "tex_dir": albedo.directions} | change, head)


@pytest.mark.parametrize("change, said", [
    (lambda f: f.pop("tri"), "lacks tri"), (lambda f: f.update(idBase=f["idBase"][:-3]), "idBase has the shape"),
    (lambda f: f.update(exBase=f["exBase"] * np.nan), "not finite"),
    (lambda f: f.update(keypoints=f["keypoints"][:, :5]), "68 vertices"),
    (lambda f: f.update(tri=f["tri"] + 0.5), "whole numbers"), (lambda f: f.update(tri=f["tri"] + 2), "tri has"),
    (lambda f: f.update(tri={"a": 1}), "structure or text"), (lambda f: f.update(meanshape="x"), "structure or text"),
])  # fmt: skip
def test_a_face_model_that_is_none_is_refused(tmp_path, change, said):
    from scipy.io import savemat

    fields = basel_fields()
    change(fields)
    savemat(tmp_path / "x.mat", fields)
    with pytest.raises(BaselError, match=said):
        read_basel(tmp_path / "x.mat")


@pytest.fixture(scope="module")
def imported(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cfr")
    files = write_regressor(folder / "occ.pth", SHALLOW), write_basel(folder / "BFM_model_80.mat")
    return import_cfr(*files, folder / "bundle", depths=SHALLOW), Bundle.load(folder / "bundle"), files


def test_the_import_makes_a_bundle_of_a_regressor_alone(imported):
    difference, bundle, _ = imported
    assert difference < 1e-4 and list(bundle.stages) == ["regressor"]
    assert bundle.head.n_vertices == SIDES[0] * SIDES[1] and bundle.albedo.at_vertices
    spec = bundle.stages["regressor"].regression
    assert spec.groups == GROUPS and spec.rotation == "euler" and spec.crop.channels == "bgr"
    assert not any(record.commercial_use for record in bundle.files.values())
    network = CfrRegressor(SHALLOW)
    network.load_official(regressor_state(SHALLOW))
    with torch.no_grad():
        expected = network.eval()(picture())
    found = OnnxStage(bundle.path / "regressor.onnx")(crop=picture().numpy())["coefficients"]
    assert relative_error(found[:, :254], expected[:, :254]) < 1e-4
    np.testing.assert_allclose(found[:, 254:], 0.1 * expected[:, 254:], rtol=1e-3, atol=1e-5)  # metres


def test_the_crop_is_where_the_camera_sees_the_mean_face(imported):
    """The template's points are the mean face's own, as CFR's camera projects them when the face has no depth."""
    _, bundle, _ = imported
    marks = bundle.head.landmarks(bundle.head.v_template, "landmarks68")[:, :2]
    five = np.array([marks[[36, 39]].mean(0), marks[[42, 45]].mean(0), marks[30], marks[48], marks[54]])
    template = bundle.stages["regressor"].regression.crop.template
    np.testing.assert_allclose(template, 112 + five * [FOCAL, -FOCAL], atol=1e-3)


def test_weights_saved_from_several_gpus_are_read_too(tmp_path, imported):
    _, bundle, (_, basel) = imported
    import_cfr(write_regressor(tmp_path / "occ.pth", SHALLOW, "module."), basel, tmp_path / "bundle", depths=SHALLOW)
    again = (tmp_path / "bundle" / "regressor.onnx").read_bytes()
    assert again == (bundle.path / "regressor.onnx").read_bytes()


def test_what_does_not_fit_is_refused_and_leaves_what_was_there(tmp_path, imported):
    _, bundle, (regressor, basel) = imported
    before = (bundle.path / "manifest.yaml").read_bytes()
    with pytest.raises(OfficialImportError, match="missing"):
        import_cfr(regressor, basel, bundle.path, depths=(1, 1, 2, 1))
    with pytest.raises(OfficialImportError, match="is not there"):
        import_cfr(tmp_path / "no.pth", basel, bundle.path)
    with pytest.raises(OfficialImportError, match="no MAT file"):
        import_cfr(regressor, regressor, bundle.path, depths=SHALLOW)
    with pytest.raises(OfficialImportError, match="no checkpoint|is not"):
        import_cfr(basel, basel, bundle.path, depths=SHALLOW)
    torch.save({"net": {"a": torch.ones(1)}}, tmp_path / "other.pth")
    with pytest.raises(OfficialImportError, match="no state dict of CFR"):
        import_cfr(tmp_path / "other.pth", basel, bundle.path, depths=SHALLOW)
    assert (bundle.path / "manifest.yaml").read_bytes() == before


def test_a_changed_albedo_is_refused(tmp_path, imported):
    import shutil

    shutil.copytree(imported[1].path, tmp_path / "bundle")
    (tmp_path / "bundle" / "albedo.npz").write_bytes(b"PK")
    with pytest.raises(BundleError, match="sha256"):
        Bundle.load(tmp_path / "bundle")
    (tmp_path / "bundle" / "albedo.npz").unlink()
    with pytest.raises(BundleError, match="missing"):
        Bundle.load(tmp_path / "bundle")


@pytest.mark.long
@pytest.mark.parametrize("count, sides", [(35_709, (189, 188)), (53_215, (230, 231))])
def test_files_of_full_size_are_imported_and_run(tmp_path, count, sides):
    regressor = write_regressor(tmp_path / "occ.pth", (3, 4, 6, 3))
    basel = write_basel(tmp_path / "BFM_model_80.mat", count=count, sides=sides)
    assert import_cfr(regressor, basel, tmp_path / "bundle") < 1e-4
    bundle = Bundle.load(tmp_path / "bundle")
    assert bundle.head.n_vertices == count and bundle.albedo.n_coefficients == 80
    found = OnnxStage(bundle.path / "regressor.onnx")(crop=picture().numpy())["coefficients"]
    expected = np.array(COEFFICIENTS)
    assert relative_error(found[:, ::24], expected) < 1e-4
    parts = bundle.stages["regressor"].regression.split(found)
    vertices = bundle.head.decode(parts["shape"], parts["expression"])
    assert vertices.shape == (2, count, 3) and np.isfinite(vertices).all()
    assert bundle.head.landmarks(vertices, "landmarks68").shape == (2, 68, 3)
