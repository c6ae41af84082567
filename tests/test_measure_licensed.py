"""The runners of the licensed sets, on folders of a few made-up files in their layouts."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

pytest.importorskip("scipy", reason="evaluation needs scipy")
pytest.importorskip("trimesh", reason="meshes are read by trimesh (`make train-env`)")

import trimesh
from scipy.io import savemat
from test_measure_metrics import bowl

from ofer_models.reconstruction.mesh_files import write_mesh
from ofer_models.workshop.measure.licensed import predict
from ofer_models.workshop.measure.licensed import runners as licensed
from ofer_models.workshop.measure.licensed.runners import EvaluationError


def plain(iterable, text, total):
    return iterable


@pytest.fixture
def now_set(tmp_path) -> tuple[Path, Path, np.ndarray, np.ndarray]:
    """Two images of one subject, whose scan is the bowl; predictions for the first alone."""
    vertices, faces = bowl()
    marks = vertices[[105, 108, 111, 114, 210, 288, 291]] * [1, -1, 1]
    data, predictions = tmp_path / "now", tmp_path / "predictions"
    for folder in (data / "scans/one", data / "scans_lmks_onlypp/one", predictions / "one/multiview_neutral"):
        folder.mkdir(parents=True)
    images = ["one/multiview_neutral/IMG_1.jpg", "one/selfie/IMG_2.jpg"]
    (data / "imagepathsvalidation.txt").write_text("\n".join(images) + "\n")
    write_mesh(data / "scans/one/natural.obj", vertices, faces)
    points = "\n".join(f'  <point x="{x}" y="{y}" z="{z}" name="{n}" active="1"/>' for n, (x, y, z) in enumerate(marks))
    (data / "scans_lmks_onlypp/one/natural.pp").write_text(f"<PickedPoints>\n{points}\n</PickedPoints>")
    write_mesh(predictions / "one/multiview_neutral/IMG_1.ply", vertices / 1000, faces)
    np.save(predictions / "one/multiview_neutral/IMG_1.npy", marks / 1000)
    return data, predictions, vertices, marks


def test_now_counts_what_is_missing(now_set):
    data, predictions, *_ = now_set
    figures = licensed.evaluate_now(data, predictions, metrical=False, progress=plain)
    assert figures["all"]["images"] == 1 and figures["all"]["missing"] == 1
    assert figures["neutral"]["median"] < 1e-3 and figures["selfie"]["missing"] == 1
    metrical = licensed.evaluate_now(data, predictions, metrical=True, progress=plain)
    assert metrical["all"]["median"] > 1  # a thousandth of the size


def test_picked_points_in_the_order_of_the_file(now_set):
    data, _, _, marks = now_set
    np.testing.assert_allclose(licensed.read_picked_points(data / "scans_lmks_onlypp/one/natural.pp"), marks)


def test_what_is_wrong_with_a_now_folder(now_set, tmp_path):
    data, predictions, *_ = now_set
    with pytest.raises(EvaluationError, match="imagepathsvalidation"):
        licensed.now_images(tmp_path)
    (data / "scans_lmks_onlypp/one/natural.pp").write_text("<PickedPoints/>")
    with pytest.raises(EvaluationError, match="holds 0 points"):
        licensed.evaluate_now(data, predictions, metrical=False, progress=plain)
    (data / "imagepathsvalidation.txt").write_text("IMG_1.jpg\n")
    with pytest.raises(EvaluationError, match="subject/challenge/image"):
        licensed.now_images(data)


@pytest.fixture
def co545(tmp_path) -> tuple[Path, Path]:
    data, predictions = tmp_path / "co545", tmp_path / "samples"
    (data / "truth").mkdir(parents=True)
    predictions.mkdir()
    rng = np.random.default_rng(0)
    np.savez(data / "population.npz", meshes=rng.normal(size=(50, 6, 3)))
    visible = np.array([1, 1, 1, 1, 0, 0], bool)
    for name in ("a", "b"):
        np.savez(data / f"truth/{name}.npz", vertices=np.zeros((6, 3)), visible=visible, occluded=~visible)
    samples = np.zeros((3, 6, 3))
    samples[1:, 4:, 0] = [[0.3], [0.6]]
    np.savez(predictions / "a.npz", vertices=samples)
    return data, predictions


def test_co545_figures(co545):
    data, predictions = co545
    figures = licensed.evaluate_co545(data, predictions, progress=plain)
    assert figures["images"] == 1 and figures["missing"] == 1
    assert figures["cse"] == 0 and figures["se"] == pytest.approx((0.3 + 0.6) * np.sqrt(2 / 6) / 3)
    assert figures["min_asd_v"] == figures["max_asd_v"] == pytest.approx(0, abs=1e-9) and figures["asd_o"] > 0
    assert figures["ode"] == figures["ode_o"] == figures["ode_v"] == 0 and figures["std_s"] > 0


def test_co545_of_another_topology(co545):
    data, predictions = co545
    np.savez(predictions / "b.npz", vertices=np.zeros((3, 7, 3)))
    with pytest.raises(EvaluationError, match="topology"):
        licensed.evaluate_co545(data, predictions, progress=plain)
    with pytest.raises(EvaluationError, match="README"):
        licensed.evaluate_co545(predictions, predictions, progress=plain)


def test_aflw2000_bins(tmp_path):
    truth = np.zeros((3, 68))
    truth[0, 1], truth[1, 2] = 100, 100  # a box of 100 px
    points = []
    for number, yaw in enumerate((0.1, -0.9, 1.3)):
        savemat(tmp_path / f"image{number}.mat", {"pt3d_68": truth, "Pose_Para": [[0, yaw, 0, 0, 0, 0, 1]]})
        points.append(truth[:2].T + [number + 1, 0])
    points[2][:] = np.nan
    np.save(tmp_path / "p.npy", np.array(points))
    figures = licensed.evaluate_aflw2000(tmp_path, tmp_path / "p.npy")
    assert figures["frontal"] == pytest.approx(1) and figures["turned"] == pytest.approx(2)
    assert figures["missing"] == 1 and figures["counts"] == (1, 1, 0)
    with pytest.raises(EvaluationError, match="missing"):
        licensed.evaluate_aflw2000(tmp_path, tmp_path / "q.npy")


def test_a_bundles_own_predictions(open_bundle, tmp_path):
    """One photograph in the layouts of all three sets, and each runner reads what was predicted for it."""
    astronaut = pytest.importorskip("skimage.data", reason="a photograph to look at").astronaut()
    pictures = tmp_path / predict.NOW_PICTURES / "one/selfie"
    for folder in (pictures, tmp_path / "images", tmp_path / "truth"):
        folder.mkdir(parents=True)
    for path in (pictures / "a.jpg", tmp_path / "images/a.jpg", tmp_path / "a.jpg"):
        cv2.imwrite(str(path), astronaut[..., ::-1])
    (tmp_path / "imagepathsvalidation.txt").write_text("one/selfie/a.jpg\n")
    predict.predict_now(open_bundle, tmp_path, tmp_path / "now", plain)
    mesh = trimesh.load(tmp_path / "now/one/selfie/a.ply", process=False)
    points = np.loadtxt(tmp_path / "now/one/selfie/a.txt")
    assert 60 < np.linalg.norm(points[0] - points[3]) < 120  # mm between the outer eye corners
    np.testing.assert_allclose(points, open_bundle.head.landmarks(np.asarray(mesh.vertices), "now7"), atol=0.01)

    savemat(tmp_path / "a.mat", {"pt3d_68": np.ones((3, 68)) * np.arange(68), "Pose_Para": [[0, 0.1, 0, 0, 0, 0, 1]]})
    predict.predict_aflw2000(open_bundle, tmp_path, tmp_path / "points.npy", plain)
    found = np.load(tmp_path / "points.npy")[0]
    assert found.shape == (68, 2) and 170 < found[:, 0].min() < found[:, 0].max() < 290  # where her face is
    assert licensed.evaluate_aflw2000(tmp_path, tmp_path / "points.npy")["missing"] == 0

    visible = np.arange(open_bundle.head.n_vertices) % 2 == 0
    truth = 1000 * open_bundle.head.v_template
    np.savez(tmp_path / "truth/a.npz", vertices=truth, visible=visible, occluded=~visible)
    np.savez(tmp_path / "population.npz", meshes=truth + np.random.default_rng(0).normal(size=(9, *truth.shape)))
    predict.predict_co545(open_bundle, tmp_path, tmp_path / "samples", plain)
    figures = licensed.evaluate_co545(tmp_path, tmp_path / "samples", progress=plain)
    assert figures["images"] == 1 and 0 < figures["cse"] <= figures["se"] < 30
