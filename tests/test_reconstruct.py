"""`ofer reconstruct`: what is written is what the node's pipeline finds, in every format, and failures are told."""

from __future__ import annotations

import json
import os
from pathlib import Path

import cv2
import numpy as np
import pytest
from skimage.data import astronaut
from typer.testing import CliRunner

from ofer_models.cli.main import app
from ofer_models.drawing.shading import spread_colors
from ofer_models.head.model import HeadModel
from ofer_models.perception.intrinsics import Intrinsics
from ofer_models.perception.pictures import PictureError, read_picture
from ofer_models.pipeline import FacePipeline
from ofer_models.reconstruction.pictures import find_pictures, folder_names
from ofer_models.reconstruction.reconstruct import Output, ReconstructError, reconstruct
from ofer_models.reconstruction.result import spread_mm
from ofer_models.reconstruction.result_folder import remove_results, replaced
from ofer_models.reconstruction.sheet import COLUMNS, TILE
from ofer_models.reconstruction.unknown_camera import assumed_camera

H, N, SEED = 4, 12, 3


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> Path:
    """one.png with a face, two.png with two, a text file and a grey picture without any face."""
    folder = tmp_path_factory.mktemp("pictures")
    face = cv2.cvtColor(astronaut(), cv2.COLOR_RGB2BGR)[0:300, 70:400]
    cv2.imwrite(str(folder / "one.png"), face)
    cv2.imwrite(str(folder / "two.png"), np.hstack([face, face[:, ::-1]]))
    cv2.imwrite(str(folder / "grey.png"), np.full((200, 200, 3), 128, np.uint8))
    (folder / "notes.txt").write_text("no picture")
    return folder


@pytest.fixture(scope="module")
def pipeline(open_bundle) -> FacePipeline:
    return FacePipeline(open_bundle, hypotheses=H, candidates=N, seed=SEED)


@pytest.fixture(scope="module")
def written(pictures, pipeline, tmp_path_factory):
    """Both pictures with a face, as PLY in metres."""
    out = tmp_path_factory.mktemp("out")
    results = list(reconstruct([pictures / "two.png", pictures / "one.png"], pipeline, Output(out), SEED))
    assert [result.problem for result in results] == ["", ""]
    return out, results


def read_ply(path: Path) -> tuple[np.ndarray, np.ndarray]:
    header, body = path.read_bytes().split(b"end_header\n", 1)
    counts = [int(line.split()[2]) for line in header.decode().splitlines() if line.startswith("element")]
    vertices = np.frombuffer(body[: 12 * counts[0]], "<f4").reshape(-1, 3)
    rows = np.frombuffer(body[12 * counts[0] :], [("n", "u1"), ("corners", "<i4", 3)])
    assert len(rows) == counts[1] and (rows["n"] == 3).all()
    return vertices, rows["corners"]


def read_obj(path: Path) -> tuple[np.ndarray, np.ndarray]:
    rows = [line.split() for line in path.read_text().splitlines()]
    corners = [[corner.split("/")[0] for corner in row[1:]] for row in rows if row[0] == "f"]
    return np.array([row[1:] for row in rows if row[0] == "v"], np.float32), np.array(corners, int) - 1


def read_glb(path: Path) -> tuple[np.ndarray, np.ndarray]:
    raw = path.read_bytes()
    magic, version, total = np.frombuffer(raw[:12], "<u4").tolist()
    assert (magic, version, total) == (int.from_bytes(b"glTF", "little"), 2, len(raw)) and len(raw) % 4 == 0
    length = int.from_bytes(raw[12:16], "little")
    document, binary = json.loads(raw[20 : 20 + length]), raw[28 + length :]
    size = int.from_bytes(raw[20 + length : 24 + length], "little")
    assert document["buffers"][0]["byteLength"] == len(binary) == size

    def accessor(index: int) -> np.ndarray:
        entry = document["accessors"][index]
        view = document["bufferViews"][entry["bufferView"]]
        data = binary[view["byteOffset"] : view["byteOffset"] + view["byteLength"]]
        array = np.frombuffer(data, {5126: "<f4", 5125: "<u4"}[entry["componentType"]])
        return array.reshape(-1, 3) if entry["type"] == "VEC3" else array

    primitive = document["meshes"][0]["primitives"][0]
    vertices, normals = accessor(primitive["attributes"]["POSITION"]), accessor(primitive["attributes"]["NORMAL"])
    np.testing.assert_allclose(document["accessors"][0]["max"], vertices.max(0))
    np.testing.assert_allclose(np.linalg.norm(normals, axis=1), 1, atol=1e-5)
    return vertices, accessor(primitive["indices"]).reshape(-1, 3)


def only(folder: Path) -> dict[str, np.ndarray]:
    with np.load(folder / "face1.npz") as stored:
        return dict(stored)


def test_nobody_is_nearer_than_people_are_photographed(written):
    """A cut-out's face would be 40 cm away under the usual field of view."""
    usual, cut_out, far = (assumed_camera(330, 300, eyes) for eyes in (0.0, 60.0, 10.0))
    assert usual.K[0, 0] == far.K[0, 0] == pytest.approx(165 / np.tan(np.pi / 6))
    assert cut_out.K[0, 0] == cut_out.K[1, 1] == pytest.approx(60 * 0.6 / 0.063)
    np.testing.assert_array_equal(cut_out.K[:2, 2], usual.K[:2, 2])
    assert not cut_out.metric
    stored = only(written[0] / "one")
    assert stored["camera_matrix"][0, 0] > usual.K[0, 0] and stored["translation"][2] > 0.5


def test_the_files_hold_what_the_nodes_pipeline_finds(written, pictures, open_bundle):
    out, _ = written
    rgb = read_picture(pictures / "one.png")
    node = FacePipeline(open_bundle, hypotheses=H, candidates=N, seed=SEED)
    stored = only(out / "one")
    (face,) = node(rgb, 12.5, Intrinsics(stored["camera_matrix"], *rgb.shape[1::-1], metric=False))
    for name, value in (
        ("betas", face.shape), ("expressions", face.expressions), ("jaws", face.jaws), ("scores", face.scores),
        ("rotation", face.rotation), ("translation", face.translation), ("landmarks", face.landmarks),
    ):  # fmt: skip
        np.testing.assert_array_equal(stored[name], value, err_msg=name)
    assert stored["selected"] == face.selected and not stored["metric"]
    assert stored["image_size"].tolist() == [330, 300]
    for row in range(H):
        vertices, faces = read_ply(out / "one" / f"face1_{row:02d}.ply")
        np.testing.assert_array_equal(vertices, node.vertices(face, row))
        np.testing.assert_array_equal(faces, open_bundle.head.faces)
    assert sorted(os.listdir(out / "one")) == sorted(
        ["face1.json", "face1.npz", "face1.png", "face1_identity.ply"] + [f"face1_{row:02d}.ply" for row in range(H)]
    )


def test_meshes_can_be_made_again_from_the_npz(written, open_bundle):
    out, _ = written
    stored, head = only(out / "one"), HeadModel.load(open_bundle.path / "head.npz")
    identity = read_ply(out / "one" / "face1_identity.ply")[0]
    np.testing.assert_allclose(identity, head.decode(stored["betas"]), atol=1e-6)
    again = head.decode(stored["betas"], stored["expressions"], stored["jaws"])
    for row in range(H):
        np.testing.assert_allclose(read_ply(out / "one" / f"face1_{row:02d}.ply")[0], again[row], atol=1e-5)
    scores = stored["scores"].astype(float)[:, None, None]
    mean = (scores * again).sum(axis=0)
    deviation = 1000 * np.sqrt((scores * (again - mean) ** 2).sum(axis=(0, -1)))
    np.testing.assert_allclose(stored["spread_mm"], deviation, atol=0.01)
    assert stored["spread_mm"].max() > 0.5


def test_the_json_names_every_coefficient(written, open_bundle):
    out, _ = written
    stored, content = only(out / "one"), json.loads((out / "one" / "face1.json").read_text())
    assert len(content["identity"]["shape"]) == open_bundle.n_shape
    for index, name in enumerate(stored["shape_names"]):
        assert content["identity"]["shape"][name] == pytest.approx(stored["betas"][index], rel=1e-6)
    assert len(content["hypotheses"]) == H and content["selected"] == stored["selected"]
    for row, hypothesis in enumerate(content["hypotheses"]):
        assert tuple(hypothesis["expression"]) == open_bundle.head.expression_names
        np.testing.assert_allclose(list(hypothesis["expression"].values()), stored["expressions"][row], rtol=1e-6)
        np.testing.assert_allclose([hypothesis["jaw"][f"jaw_{axis}"] for axis in "xyz"], stored["jaws"][row], rtol=1e-6)
        assert hypothesis["score"] == pytest.approx(float(stored["scores"][row]), rel=1e-6)
    np.testing.assert_allclose(content["pose"]["rotation"], stored["rotation"], rtol=1e-5, atol=1e-9)
    assert content["bundle"]["head_sha256"] == open_bundle.head.sha256
    assert (content["seed"], content["identity"]["candidates"]) == (SEED, N)


def test_a_face_does_not_depend_on_the_pictures_before_it(written, pictures, pipeline, tmp_path):
    out, _ = written
    list(reconstruct([pictures / "one.png"], pipeline, Output(tmp_path), SEED))
    for path in sorted((tmp_path / "one").iterdir()):
        assert path.read_bytes() == (out / "one" / path.name).read_bytes(), path.name


def test_several_faces_are_named_from_left_to_right(written):
    out, results = written
    assert [face.name for face in results[0].faces] == ["face1", "face2"]
    with np.load(out / "two" / "face1.npz") as left, np.load(out / "two" / "face2.npz") as right:
        assert left["roi"][0] + 200 < right["roi"][0]
    assert results[0].faces[1].face.roi[0] > 330


@pytest.mark.parametrize("mesh_format, read", [("obj", read_obj), ("glb", read_glb), ("ply", read_ply)])
def test_formats_units_and_landmarks(written, pictures, pipeline, tmp_path, mesh_format, read):
    out, _ = written
    millimetres = mesh_format != "glb"
    output = Output(tmp_path, mesh_format, millimetres=millimetres, landmarks=True)
    list(reconstruct([pictures / "one.png"], pipeline, output, SEED))
    scale = 1000 if millimetres else 1
    for name in ("identity", "00", f"{H - 1:02d}"):
        expected, faces = read_ply(out / "one" / f"face1_{name}.ply")
        path = tmp_path / "one" / f"face1_{name}.{mesh_format}"
        vertices, triangles = read(path)
        np.testing.assert_allclose(vertices[: len(expected)], scale * expected, atol=2e-6 * scale)
        np.testing.assert_allclose(vertices[triangles], scale * expected[faces], atol=2e-6 * scale)
        points = np.loadtxt(path.with_suffix(".txt"))
        np.testing.assert_allclose(points, scale * pipeline.head.landmarks(expected, "now7"), atol=2e-6 * scale)
        assert points.shape == (7, 3) and (np.diff(points[:4, 0]) > 0).all()  # eye corners, the person's right first


@pytest.mark.parametrize("mesh_format", ["obj", "glb", "ply"])
def test_another_program_reads_the_meshes(written, pictures, pipeline, tmp_path, mesh_format):
    trimesh = pytest.importorskip("trimesh")
    out, _ = written
    list(reconstruct([pictures / "one.png"], pipeline, Output(tmp_path, mesh_format), SEED))
    mesh = trimesh.load(tmp_path / "one" / f"face1_00.{mesh_format}", force="mesh", process=False)
    expected, faces = read_ply(out / "one" / "face1_00.ply")
    np.testing.assert_allclose(mesh.vertices[mesh.faces], expected[faces], atol=2e-6)  # seams have their own vertices
    if mesh_format != "ply":
        assert mesh.visual.uv.shape == (len(mesh.vertices), 2) and mesh.visual.material is not None


def test_the_sheet_shows_every_hypothesis_and_marks_the_selected_one(written):
    out, results = written
    sheet = cv2.imread(str(out / "one" / "face1.png"))
    assert sheet.shape == (TILE * -(-(8 + H) // COLUMNS), TILE * COLUMNS, 3)
    tiles = [sheet[TILE * (i // COLUMNS) :, TILE * (i % COLUMNS) :][:TILE, :TILE] for i in range(8 + H)]
    green = [bool((tile[1, 10:-10] == (80, 230, 80)).all()) for tile in tiles]
    assert green == [False] * 5 + [row == results[1].faces[0].face.selected for row in range(H)] + [False] * 3
    drawn = [tile[20:-20, 20:-20].astype(int) for tile in tiles]
    assert all(np.ptp(tile) > 80 for tile in drawn)  # something on each of them
    assert np.abs(drawn[2] - drawn[1]).mean() > 5  # overlay over crop
    assert all((drawn[5] != drawn[5 + row]).any() for row in range(1, H))
    identity, spread = (np.ptp(tile[..., 0] - tile[..., 2]) for tile in drawn[3:5])  # from blue to yellow
    assert spread > 100 and spread > 2 * identity


def test_spread_is_the_distance_to_the_mean_in_millimetres():
    still, moving = np.zeros((4, 1, 3)), np.array([[3, 0, 0], [-3, 0, 0], [0, 4, 0], [0, -4, 0]])[:, None] / 1000
    np.testing.assert_allclose(spread_mm(np.concatenate([still, moving], 1) + 7), [0, np.sqrt(12.5)], atol=1e-9)
    assert np.isnan(spread_mm(np.zeros((1, 5, 3)))).all(), "one hypothesis says nothing of others, not that it is sure"
    assert spread_mm(np.zeros((2, 1, 5, 3))).shape == (2, 5)
    dark, bright, beyond = spread_colors(np.array([0.0, 2.0, 9.0]), 2.0)
    assert dark.sum() < 1 and bright.sum() > 1.8 and (bright == beyond).all()
    grey, again = spread_colors(np.array([np.nan, 0.0]), 2.0)
    assert np.ptp(grey) == 0 and (again == dark).all()


def test_one_hypothesis_has_no_spread_in_any_file(open_bundle, pictures, tmp_path):
    pipeline = FacePipeline(open_bundle, candidates=4, hypotheses=1)
    list(reconstruct([pictures / "one.png"], pipeline, Output(tmp_path), SEED))
    content = json.loads((tmp_path / "one" / "face1.json").read_text(), parse_constant=pytest.fail)
    assert content["spread_mm"] == {"face_mean": None, "largest": None}
    with np.load(tmp_path / "one" / "face1.npz") as stored:
        assert np.isnan(stored["spread_mm"]).all()
    tile = cv2.imread(str(tmp_path / "one" / "face1.png"))[20 : TILE - 20, 4 * TILE + 20 : 5 * TILE - 20].astype(int)
    assert np.ptp(tile) > 80 and np.ptp(tile[..., 0] - tile[..., 2]) < 30, "grey, not the blue of certainty"


def test_arguments_become_pictures(pictures, tmp_path, monkeypatch):
    monkeypatch.chdir(pictures.parent)
    name, out = pictures.name, tmp_path / "out"
    names = ["grey.png", "one.png", "two.png"]
    assert [path.name for path in find_pictures([name])[0]] == names
    assert [path.name for path in find_pictures([f"{name}/[og]*.png", name])[0]] == ["grey.png", "one.png", "two.png"]
    assert [path.name for path in find_pictures(["**/t*.png"])[0]] == ["two.png"]
    (tmp_path / "empty").mkdir()
    found, problems, hidden = find_pictures(["nosuch.jpg", str(tmp_path / "empty"), "*.nothing", f"{name}/notes.txt"])
    assert [path.name for path in found] == ["notes.txt"]  # a file that is named is tried
    assert problems["nosuch.jpg"] == "does not exist" and "without pictures" in problems[str(tmp_path / "empty")]
    assert problems["*.nothing"].startswith("no picture") and not hidden
    out.mkdir()
    cv2.imwrite(str(out / "face1.png"), np.zeros((4, 4, 3), np.uint8))
    assert find_pictures([f"{tmp_path}/**/*.png"])[0] == [out / "face1.png"]
    assert find_pictures([f"{tmp_path}/**/*.png"], outside=out) == (
        [], {f"{tmp_path}/**/*.png": problems["*.nothing"]}, []
    )  # fmt: skip
    (out / "._face1.png").touch()
    assert find_pictures([str(out)]) == ([out / "face1.png"], {}, [out / "._face1.png"])


def test_an_argument_that_cannot_be_looked_at_is_one_of_the_problems():
    found, problems, _ = find_pictures(["x" * 5000, "~nobody-of-this-name/x.png"])
    assert not found and all("cannot be read" in problem for problem in problems.values()) and len(problems) == 2


def test_links_that_lead_nowhere_cost_no_other_picture_and_are_named(pictures, pipeline, tmp_path):
    folder = tmp_path / "pictures"
    folder.mkdir()
    (folder / "one.png").symlink_to(pictures / "one.png")
    for name, target in (("gone.jpg", "nowhere"), ("loop.png", "loop.png")):
        (folder / name).symlink_to(target)
    found = find_pictures([str(folder)], outside=folder / "out")[0]
    assert [path.name for path in found] == ["gone.jpg", "loop.png", "one.png"]
    results = {result.picture.name: result for result in reconstruct(found, pipeline, Output(tmp_path / "out"), SEED)}
    assert results["gone.jpg"].problem == "cannot be read (No such file or directory)"
    assert results["loop.png"].problem.startswith("cannot be read (Too many levels of symbolic links")
    assert len(results["one.png"].faces) == 1 and not results["one.png"].problem


def test_a_picture_whose_identity_fails_is_a_problem_and_no_mean_head(open_bundle, pictures, tmp_path, monkeypatch):
    pipeline = FacePipeline(open_bundle, hypotheses=2, candidates=4)

    def draw(request):
        raise ValueError("no luck")

    monkeypatch.setattr(pipeline._identities._runner, "_draw", draw)
    (result,) = reconstruct([pictures / "one.png"], pipeline, Output(tmp_path), SEED)
    assert result.problem == "no identity could be drawn: ValueError: no luck" and not list(tmp_path.iterdir())
    monkeypatch.undo()
    (result,) = reconstruct([pictures / "one.png"], pipeline, Output(tmp_path), SEED)
    assert not result.problem and result.faces


def test_pictures_of_one_name_get_folders_of_their_own():
    paths = [Path("a/x.png"), Path("b/x.jpg"), Path("x_2.png"), Path("y.png")]
    assert folder_names(paths) == ["x", "x_2", "x_2_2", "y"]


def test_no_name_leads_out_of_the_folder():
    paths = [Path("...jpg"), Path("a/..png"), Path(".hidden.jpg"), Path("....jpeg")]
    assert folder_names(paths) == ["picture", "picture_2", "hidden", "picture_3"]


def test_a_folder_of_results_is_of_one_run_and_whole(tmp_path):
    folder = tmp_path / "one"
    with replaced(folder) as part:
        for name in ("face1.npz", "face2.json", "face2_14.ply", "face1_identity.glb"):
            (part / name).touch()
        assert not folder.exists(), "not before it is whole"
    with replaced(folder) as part:
        (part / "face1.npz").touch()
    assert [file.name for file in folder.iterdir()] == ["face1.npz"], "nothing of the first run"
    with pytest.raises(OSError, match="disk"):
        with replaced(folder) as part:
            (part / "face1.json").touch()
            raise OSError("disk full")
    assert [file.name for file in folder.iterdir()] == ["face1.npz"] and len(list(tmp_path.iterdir())) == 1
    (folder / "notes.txt").touch()
    for use in (lambda: replaced(folder).__enter__(), lambda: remove_results(folder)):
        with pytest.raises(FileExistsError, match=r"holds notes\.txt, which is no result"):
            use()


def test_a_picture_that_is_none_is_refused(tmp_path, pictures):
    with pytest.raises(PictureError, match="not a picture"):
        read_picture(pictures / "notes.txt")
    with pytest.raises(PictureError, match="cannot be read"):
        read_picture(tmp_path / "nothing.png")


def run(*arguments: str | Path):
    options = ["--hypotheses", str(H), "--candidates", str(N)]
    return CliRunner().invoke(app, ["reconstruct", *map(str, arguments), *options])


def test_the_command_lists_what_failed_and_fails(open_bundle, pictures, tmp_path):
    result = run(pictures, pictures / "notes.txt", "nosuch.png", "-o", tmp_path / "out")
    assert result.exit_code == 1
    text = " ".join(result.output.split())
    for failure in ("grey.png: no face found", "nosuch.png: does not exist", "notes.txt: not a picture"):
        assert failure in text
    assert "3 faces of 4 pictures" in text
    assert sorted(os.listdir(tmp_path / "out")) == ["one", "two"]


def test_a_hidden_file_is_named_and_any_file_name_will_do(open_bundle, pictures, tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / os.fsdecode(b"caf\xe9.png")).write_bytes((pictures / "one.png").read_bytes())
    (folder / "._one.png").write_text("what macOS leaves")
    result = run(folder, "-o", tmp_path / "out")
    assert result.exit_code == 0, result.output
    text = " ".join(result.output.split())
    assert "._one.png: a hidden file" in text and "caf\\xe9" in text
    assert [os.fsencode(name) for name in os.listdir(tmp_path / "out")] == [b"caf\xe9"]
    cut = (pictures / "one.png").read_bytes()[:-100]
    (folder / "cut.png").write_bytes(cut)
    result = run(folder / "cut.png", "-o", tmp_path / "cut")
    assert result.exit_code == 1 and "cut.png: damaged or truncated" in " ".join(result.output.split())


def test_the_command_succeeds_and_the_seed_decides(open_bundle, pictures, tmp_path):
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        result = run(pictures / "one.png", "-o", tmp_path / name, "--seed", seed)
        assert result.exit_code == 0, result.output
    a, b, c = ((tmp_path / name / "one" / "face1.json").read_text() for name in "abc")
    assert a == b and json.loads(c)["hypotheses"] != json.loads(a)["hypotheses"]


def test_options_that_cannot_be_are_refused_before_any_work(open_bundle, pipeline, pictures, tmp_path, monkeypatch):
    glb = run(pictures / "one.png", "-o", tmp_path / "out", "--format", "glb", "--millimetres")
    assert glb.exit_code == 1 and "in metres by definition" in " ".join(glb.output.split())
    assert run(pictures / "one.png", "-o", tmp_path / "out", "--format", "stl").exit_code == 2
    (tmp_path / "file").write_text("")
    taken = run(pictures / "one.png", "-o", tmp_path / "file")
    assert taken.exit_code == 1 and "cannot be used for results" in " ".join(taken.output.split())
    none = run(pictures / "one.png", "-o", tmp_path / "out", "--bundle", tmp_path)
    assert none.exit_code == 1 and "no bundle at" in " ".join(none.output.split())
    monkeypatch.delitem(pipeline.head.embeddings, "now7")
    with pytest.raises(ReconstructError, match=r"no NoW landmarks; run `ofer import` again with --landmarks"):
        list(reconstruct([pictures / "one.png"], pipeline, Output(tmp_path, landmarks=True), SEED))
    assert not any((tmp_path / "out").glob("*"))


def test_results_that_cannot_be_written_are_a_failure_of_that_picture_alone(pipeline, pictures, tmp_path):
    (tmp_path / "one").write_text("in the way")
    first, second = reconstruct([pictures / "one.png", pictures / "two.png"], pipeline, Output(tmp_path), SEED)
    assert "cannot be written" in first.problem and first.faces == []
    assert second.problem == "" and len(second.faces) == 2
