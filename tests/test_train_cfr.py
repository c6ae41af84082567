"""CFR's two stages: losses of the public code, what hides faces, skin, and trainings that stop and go on."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from cfr_inputs import coefficients, random, write_basel, write_regressor
from people_support import write_people

from ofer_models.bundle.manifest import Bundle
from ofer_models.head.albedo import Albedo
from ofer_models.head.landmark_sets import LANDMARKS68
from ofer_models.head.model import HeadModel
from ofer_models.workshop.errors import DataError
from ofer_models.workshop.networks.cfr import CfrRegressor, split
from ofer_models.workshop.networks.landmarks import LandmarkNetwork
from ofer_models.workshop.networks.regressor import RegressorHead, RegressorNetwork
from ofer_models.workshop.pictures.people import dataset
from ofer_models.workshop.train.cfr import augment, learners, losses, stages
from ofer_models.workshop.train.cfr.face import TorchFace, rotation_matrices
from ofer_models.workshop.train.cfr.pictures import AlignedPhotographs, CleanPeople
from ofer_models.workshop.train.cfr.skin import Parser, skin_by_colour
from ofer_models.workshop.train.cfr.stages import Sources, train_cfr
from ofer_models.workshop.train.cfr.training import Learner, Plan, _FirstStage, figures_of
from ofer_models.workshop.train.loop import Schedule
from ofer_models.workshop.train.regressor.targets import open_regressor

pytest.importorskip("scipy", reason="writes .mat files: `make train-env`")
OPEN = Path(__file__).resolve().parents[1] / "engines" / "open" / "head.npz"
SHALLOW, SIDE = (1, 1, 1, 1), 64
FULL = learners.basel_learner
# Of the public code's own lines (train_stage1.py, train_stage2.py, renderer.py) on the same random numbers.
STAGE1 = {"landmarks": 1814.321, "coefficients": 15.04081, "photometric": 0.714468, "identity": 0.9807726,
          "light": 0.7428119}  # fmt: skip
STAGE2 = {"features": 3.637651, "landmarks": 43.11561, "coefficients": 6.389337}
TOTALS = 20.33317, 4.707741


def marks(seed: int) -> torch.Tensor:
    return 112 + 9 * random(seed, 2, 68, 2)


def test_the_terms_of_stage_1_are_the_public_codes():
    told = split(random(3, 2, 257))
    pictures = [random(seed, 2, 3, 8, 8).sigmoid() for seed in (4, 5)]
    terms = {
        "landmarks": losses.squared_landmarks(marks(1), marks(2)), "coefficients": losses.sizes(told),
        "photometric": losses.photometric(*pictures, (random(6, 2, 1, 8, 8) > 0).float()[:, 0]),
        "identity": losses.unlikeness(random(7, 2, 16), random(8, 2, 16)),
        "light": losses.greyness(random(9, 2, 27)),
    }  # fmt: skip
    assert {name: float(term) for name, term in terms.items()} == pytest.approx(STAGE1, rel=1e-4)
    assert float(losses.weighed(terms, losses.STAGE1)) == pytest.approx(TOTALS[0], rel=1e-4)


def test_the_terms_of_stage_2_are_the_public_codes():
    shapes = [(2, 4, 6, 6), (2, 5, 3, 3), (2, 6, 2, 2), (2, 7)]
    maps, teachers = ([random(start + n, *shape) for n, shape in enumerate(shapes)] for start in (20, 30))
    terms = losses.distillation(maps, teachers, split(random(3, 2, 257)), split(random(10, 2, 257)), marks(1), marks(2))
    assert {name: float(term) for name, term in terms.items()} == pytest.approx(STAGE2, rel=1e-4)
    assert float(losses.weighed(terms, losses.STAGE2)) == pytest.approx(TOTALS[1], rel=1e-4)


def test_reflectance_is_the_variance_over_the_skin():
    colours = random(1, 2, 50, 3)
    skin = torch.arange(50) % 3 > 0
    expected = colours.numpy()[:, skin.numpy()].var(1).sum(1).mean()
    assert float(losses.reflectance(colours, skin)) == pytest.approx(expected, rel=1e-5)
    assert float(losses.reflectance(colours * 0 + 0.4, skin)) == pytest.approx(0, abs=1e-9)


def test_a_face_of_the_open_head_is_the_heads_own():
    """Jaw, rotation vector and weak perspective, against numpy."""
    head = HeadModel.load(OPEN)
    spec = open_regressor(head)
    face = TorchFace(head, spec, None)
    rng = np.random.default_rng(0)
    told = {name: rng.normal(0, 0.2, (2, size)).astype(np.float32) for name, size in spec.groups.items()}
    told["camera"][:, 0] = 8.0
    placed = face(torch.from_numpy(np.concatenate(list(told.values()), axis=1)))
    for row in range(2):
        vertices = head.decode(told["shape"][row], told["expression"][row], told["jaw"][row])
        root = head.joint_regressor[0] @ head.shaped(told["shape"][row])
        turn = cv2.Rodrigues(told["rotation"][row])[0]
        turned = (vertices - root) @ turn.T + root
        place = 8.0 * (turned[:, :2] + told["camera"][row, 1:])
        expected = 63.5 + 64 * place * [1, -1]
        np.testing.assert_allclose(placed.points[row, :, :2], expected, atol=0.02)
        corners = expected[head.faces[head.embeddings["landmarks68"].triangle]]
        own = np.einsum("lc,lcx->lx", head.embeddings["landmarks68"].bary, corners)
        np.testing.assert_allclose(placed.landmarks[row], own, atol=0.02)
    assert placed.colours is None


def test_rotations_are_smooth_at_rest_and_euler_angles_in_the_right_order():
    none = torch.zeros(1, 3, requires_grad=True)
    rotation_matrices(none, "vector")[0, 2, 1].backward()
    np.testing.assert_allclose(none.grad, [[1, 0, 0]], atol=1e-6)
    angles = np.array([0.3, -0.5, 0.2])
    x, y, z = (cv2.Rodrigues(np.eye(3)[axis] * angles[axis])[0] for axis in range(3))
    found = rotation_matrices(torch.from_numpy(angles)[None], "euler")[0]
    np.testing.assert_allclose(found, z @ y @ x, atol=1e-6)


def grid_picture(size: int = 224) -> np.ndarray:
    y, x = np.mgrid[:size, :size]
    return np.stack([80 + x * 100 // size, 60 + y * 80 // size, 70 + 0 * x], -1).astype(np.uint8)


@pytest.mark.parametrize("corner", [(0, 0), (223, 223), (-30, 250), (111, 0)])
def test_hands_have_the_faces_colour_and_never_wrap_around(corner):
    """At the picture's edges as well, where 8 bits would come out on the other side."""
    picture, landmarks = grid_picture(), np.tile(np.float64(corner), (68, 1))
    for seed in range(12):
        covered = augment.add_hands(picture, landmarks, np.random.default_rng(seed))
        changed = (covered != picture).any(-1)
        rows, columns = np.nonzero(changed)
        near = np.clip(corner, 0, 223)
        reach = 0.09 * 224 + 0.67 * 224  # the jitter, and half of a hand's diagonal and more
        assert np.hypot(columns - near[0], rows - near[1]).max(initial=0) <= reach
        patch = picture[max(near[1] - 20, 0) : near[1] + 20, max(near[0] - 20, 0) : near[0] + 20].reshape(-1, 3)
        if changed.any():
            assert len(np.unique(covered[changed], axis=0)) <= 2
            assert np.abs(covered[changed].astype(float) - patch.mean(0)).max() <= 4


def test_hands_are_as_large_as_they_should_be():
    picture, landmarks = grid_picture(), np.full((68, 2), 112.0)
    shares = [
        (augment.add_hands(picture, landmarks, np.random.default_rng(seed)) != picture).any(-1).mean()
        for seed in range(200)
    ]
    assert 0.02 < min(shares) and max(shares) < 0.67**2 + 0.25**2 and 0.07 < np.mean(shares) < 0.2


def test_the_list_of_what_befalls_pictures():
    picture, landmarks = grid_picture(), np.random.default_rng(0).uniform(60, 160, (68, 2))
    clean = turned = border = colours = 0
    for seed in range(400):
        seen, own, moved = augment.first_stage(picture, landmarks, None, np.random.default_rng(seed))
        assert seen.shape == own.shape == picture.shape and seen.dtype == np.uint8
        clean += np.array_equal(seen, own)
        colours += not np.array_equal(own, picture)
        turned += not np.array_equal(moved, landmarks)
        border += not seen[0].any() or not seen[:, 0].any() or not seen[-1, -60:].any()
    assert 0.22 < clean / 400 < 0.36  # 0.5 * 0.75 * 0.75 of them
    assert 0.18 < turned / 400 < 0.32 and 0.18 < border / 400 < 0.5 and 0.5 < colours / 400 < 0.75


def test_turned_pictures_take_their_landmarks_along():
    """A mark at each point is still there after the turn."""
    rng = np.random.default_rng(1)
    landmarks = rng.uniform(70, 150, (68, 2))
    picture = np.zeros((224, 224, 3), np.uint8)
    for x, y in np.round(landmarks).astype(int):
        cv2.circle(picture, (int(x), int(y)), 2, (255, 255, 255), -1)
    found = 0
    for seed in range(60):
        _, own, moved = augment.first_stage(picture, landmarks, None, np.random.default_rng(seed))
        if not np.array_equal(moved, landmarks):
            x, y = np.round(moved).astype(int).T
            assert own[y, x].mean() > 90
            found += 1
    assert found > 5


def test_the_student_sees_what_hides_the_face_and_the_teacher_does_not():
    picture, landmarks = grid_picture(), np.random.default_rng(0).uniform(60, 160, (68, 2))
    same = 0
    for seed in range(100):
        seen, clean = augment.second_stage(picture, landmarks, None, np.random.default_rng(seed))
        assert seen.shape == clean.shape == picture.shape
        same += np.array_equal(seen, clean)
    assert 25 < same < 50  # half of them, but for those that were shrunk
    given = 255 - picture
    seen = [augment.second_stage(picture, landmarks, given, np.random.default_rng(seed))[0] for seed in range(20)]
    assert any(np.abs(part.astype(int).mean() - given.mean()) < 25 for part in seen)


def test_skin_is_what_has_the_faces_usual_colour():
    picture = torch.zeros(1, 3, 40, 40)
    picture[0] = torch.tensor([0.8, 0.6, 0.5])[:, None, None] + 0.01 * random(1, 3, 40, 40)
    picture[0, :, :10] = torch.tensor([0.1, 0.3, 0.9])[:, None, None]  # something blue before the face
    head = torch.zeros(1, 40, 40, dtype=torch.bool)
    head[:, :30] = True
    skin = skin_by_colour(picture, head)[0]
    assert skin[10:30].mean() > 0.95 and not skin[:10].any() and not skin[30:].any()
    assert not skin_by_colour(picture, torch.zeros_like(head)).any()


def test_a_parsing_network_tells_skin(tmp_path):
    from ofer_models.workshop.networks.trace import export_module

    class Classes(torch.nn.Module):
        """Class 1 where red is above, class 17 elsewhere."""

        def forward(self, image: torch.Tensor) -> torch.Tensor:
            red = image[:, :1]
            nothing = torch.zeros_like(red)
            return torch.cat([nothing, red, *[nothing - 9] * 15, -red, nothing - 9], 1)

    export_module(Classes(), tmp_path / "parse.onnx", {"image": ("F", 3, 512, 512)}, ["classes"])
    picture = torch.zeros(1, 3, 32, 32)
    picture[:, 0, :16] = 1
    skin = Parser(tmp_path / "parse.onnx")(picture, torch.ones(1, 32, 32, dtype=torch.bool))
    assert skin[0, :16].all() and not skin[0, 16:].any()


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> Sources:
    """A face model, weights, and four pictures that the face model itself gives, with their landmarks."""
    folder = tmp_path_factory.mktemp("cfr")
    basel = write_basel(folder / "BFM_model_80.mat", sides=(15, 13))
    start = write_regressor(folder / "start.pth", SHALLOW)
    learner = small_learner(basel, start)
    placed = learner.face(torch.from_numpy(0.3 * coefficients(4)))
    drawn, _ = learner.face.picture(placed)
    for name in ("images", "landmarks"):
        (folder / name).mkdir()
    for number in range(4):
        image = (255 * drawn[number].numpy()).astype(np.uint8)
        cv2.imwrite(str(folder / "images" / f"{number}.png"), image[..., ::-1])
        np.save(folder / "landmarks" / f"{number}.npy", placed.landmarks[number].numpy())
    return Sources(OPEN, folder, basel=basel, start=start, data=folder)


def small_learner(basel: Path, start: Path) -> Learner:
    """CFR's regressor with few layers, on crops of SIDE px."""
    learner = FULL(basel, start, SHALLOW)
    spec, face = learner.face.spec, learner.face
    face.spec, face.size = replace(spec, focal=spec.focal * SIDE / 224, crop=replace(spec.crop, size=SIDE)), SIDE
    return learner


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """Small networks, and one thread: small steps are slower with more."""
    threads = torch.get_num_threads()
    monkeypatch.setattr(learners, "basel_learner", small_learner)
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


PLAN = Plan(epochs=3, batch=3, rate=1e-4, validations=1)


def test_both_stages_train_and_their_weights_are_imported(files, tmp_path):
    from ofer_models.workshop.official.cfr_importer import import_cfr

    said: list[str] = []
    first = train_cfr(1, files, tmp_path, PLAN, log=said.append)
    assert first == tmp_path / "cfr1.pth" and any("without the term of identity" in line for line in said)
    second = train_cfr(2, replace(files, start=None), tmp_path, PLAN, log=said.append)
    assert {path.name for path in tmp_path.iterdir()} >= {"cfr1.json", "cfr1.png", "cfr2.json", "cfr2.png"}
    assert not list(tmp_path.glob("*.checkpoint"))
    states = [torch.load(path) for path in (files.start, first, second)]
    for before, after in itertools.pairwise(states):
        assert any(not torch.equal(before[name], after[name]) for name in after)
    import_cfr(second, files.basel, tmp_path / "bundle", depths=SHALLOW)
    assert list(Bundle.load(tmp_path / "bundle").stages) == ["regressor"]
    assert train_cfr(2, replace(files, start=None), tmp_path, PLAN, log=said.append) == second
    assert "is there already" in said[-1]


@pytest.mark.parametrize("stage", [1, 2])
def test_a_stopped_training_goes_on_to_the_same_weights(files, tmp_path, monkeypatch, stage):
    from ofer_models.workshop.train import loop
    from ofer_models.workshop.train.cfr import training

    class Stopped(Exception):
        pass

    whole = train_cfr(stage, files, tmp_path / "whole", PLAN, log=lambda text: None)
    monkeypatch.setattr(training, "Keeper", lambda *a, **k: loop.Keeper(*a, **k, seconds=0.0))
    kept = loop.Keeper.save

    def stop(keeper, state):
        kept(keeper, state)
        if state["step"] == 2:
            raise Stopped

    monkeypatch.setattr(loop.Keeper, "save", stop)
    with pytest.raises(Stopped):
        train_cfr(stage, files, tmp_path / "stopped", PLAN, log=lambda text: None)
    monkeypatch.setattr(loop.Keeper, "save", kept)
    said: list[str] = []
    again = train_cfr(stage, files, tmp_path / "stopped", PLAN, log=said.append)
    assert any("goes on from step 2" in line for line in said)
    one, two = torch.load(whole), torch.load(again)
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_all_terms_of_stage_1_have_gradients(files):
    learner = learners.basel_learner(files.basel, files.start)

    class Recognition(torch.nn.Module):
        def forward(self, faces: torch.Tensor) -> torch.Tensor:
            assert faces.shape[1:] == (3, 112, 112)
            return torch.nn.functional.avg_pool2d(faces, 28).flatten(1)

    step = _FirstStage(learner, None, skin_by_colour, Recognition())
    faces = AlignedPhotographs.find(files.data, SIDE)[0]
    clean, points, _ = zip(*(faces.picture(row) for row in range(2)), strict=True)
    told = torch.from_numpy(0.29 * coefficients(2)).requires_grad_()
    terms = step.terms(told, torch.from_numpy(np.stack(clean)), torch.from_numpy(np.stack(points)).float())
    assert terms.keys() == losses.STAGE1.keys()
    for name, term in terms.items():
        (gradient,) = torch.autograd.grad(term, told, retain_graph=True)
        assert gradient.isfinite().all() and gradient.any(), name


def test_the_pixels_of_a_face_pull_its_coefficients_towards_it(files):
    """Gradient steps on the photometric term alone, from another light and albedo, bring its value down."""
    learner = learners.basel_learner(files.basel, files.start)
    face = learner.face
    true = torch.from_numpy(0.3 * coefficients(1))
    picture, there = face.picture(face(true))
    told = true.clone()
    told[:, 144:224] = 0
    told[:, 227:254] = 0
    told.requires_grad_()
    optimiser = torch.optim.Adam([told], 0.03)
    values = []
    for _ in range(15):
        drawn, _ = face.picture(face(told))
        value = losses.photometric(picture.permute(0, 3, 1, 2), drawn.permute(0, 3, 1, 2), there.float())
        optimiser.zero_grad()
        value.backward()
        optimiser.step()
        values.append(float(value.detach()))
    assert values[-1] < 0.6 * values[0]


@pytest.mark.parametrize("change, said", [
    (lambda s, f: replace(s, start=None), "give the weights"), (lambda s, f: replace(s, data=None), "on photographs"),
    (lambda s, f: replace(s, basel=None), "on renderings"),
    (lambda s, f: replace(s, start=s.basel), "no checkpoint|is not"),
    (lambda s, f: replace(s, basel=s.start), "no MAT file"), (lambda s, f: replace(s, data=f), "holds no pictures"),
    (lambda s, f: replace(s, recognition=s.start), "missing"),
])  # fmt: skip
def test_what_does_not_go_together_is_refused(files, tmp_path, change, said):
    with pytest.raises(DataError, match=said):
        train_cfr(1, change(files, tmp_path), tmp_path / "work", PLAN, log=lambda text: None)


def test_stage_2_needs_stage_1(files, tmp_path):
    with pytest.raises(DataError, match="train --stage 1 first"):
        train_cfr(2, replace(files, start=None), tmp_path, PLAN)


@pytest.mark.parametrize("content", [np.zeros((5, 2)), np.full((68, 2), np.nan)])
def test_landmarks_that_are_none_are_refused(tmp_path, content):
    for name in ("images", "landmarks"):
        (tmp_path / name).mkdir()
    for number in range(2):
        cv2.imwrite(str(tmp_path / "images" / f"{number}.png"), grid_picture(64))
        np.save(tmp_path / "landmarks" / f"{number}.npy", content)
    with pytest.raises(DataError, match="should be 68"):
        AlignedPhotographs.find(tmp_path, 224)[0].picture(0)
    np.save(tmp_path / "landmarks" / "0.npy", np.full((68, 3), 32.0))
    image, points, occluded = AlignedPhotographs.find(tmp_path, 128)[0].picture(0)
    assert image.shape == (128, 128, 3) and (points == 64).all() and occluded is None
    (tmp_path / "landmarks" / "1.npy").unlink()
    with pytest.raises(DataError, match="has no landmarks"):
        AlignedPhotographs.find(tmp_path, 128)


@pytest.fixture
def people(tmp_path, monkeypatch) -> Path:
    """Two folders as `ofer train eyes` draws them, of eight pictures each, every second of them with a hidden face."""
    monkeypatch.setattr(dataset, "SHARD", 8)
    write_people(tmp_path, HeadModel.load(OPEN), 8)
    return tmp_path


def test_the_open_heads_regressor_is_trained_on_people_whose_face_is_free(people, tmp_path):
    clean = CleanPeople.load(HeadModel.load(OPEN), people / "pictures", 8)
    assert clean.kept.tolist() == [0, 2, 4, 6]
    image, points, _ = clean.picture(1)
    assert image.shape == (128, 128, 3)
    np.testing.assert_array_equal(image, clean.people.image(2)[16:144, 16:144])
    np.testing.assert_array_equal(points, clean.people.points[2, LANDMARKS68] - 16)
    sources = Sources(OPEN, people, 8, 8)
    said: list[str] = []
    first = train_cfr(1, sources, tmp_path / "work", replace(PLAN, rate=1e-3), log=said.append)
    assert "without the term of identity" in said[0]
    second = train_cfr(2, sources, tmp_path / "work", PLAN, log=said.append)
    assert second.name == "cfr2.pt" and first.name == "cfr1.pt"
    learner, _, held_out = stages._learner(replace(sources, start=second))
    figures = figures_of(learner, learner.network.eval(), held_out)
    assert figures == figures_of(learner, learner.network, held_out)
    assert all(0 < value < 1e3 for value in figures.values())


def test_the_open_head_has_a_skin_and_light_that_pixels_teach(people, tmp_path):
    learner, learned, _ = stages._learner(Sources(OPEN, people, 8, 8))
    groups = learner.face.spec.groups
    assert learner.face.lit and (groups["albedo"], groups["light"]) == (20, 27)
    clean, marks = (torch.from_numpy(np.stack([learned.picture(row)[part] for row in (0, 2)])) for part in (0, 1))
    coefficients = learner.network(learner.prepared(clean))[0].detach().requires_grad_()
    step = _FirstStage(learner, learned, skin_by_colour, None)
    terms = step.terms(coefficients, clean, marks.float())
    assert {"photometric", "reflectance", "light"} <= terms.keys() and terms["photometric"].item() > 0
    terms["photometric"].backward()
    moved = learner.face.split(coefficients.grad)
    assert all(moved[name].abs().max() > 0 for name in ("albedo", "light", "camera"))


def test_an_albedo_s_texture_is_read_at_the_vertices():
    head = HeadModel.load(OPEN)
    albedo = Albedo.load(OPEN.with_name("albedo.npz"), head)
    at = albedo.on_vertices(head)
    assert at.at_vertices and at.on_vertices(head) is at and at.n_coefficients == albedo.n_coefficients
    face, corner = 1234, 1
    u, v = albedo.vt[albedo.ft[face, corner]]
    texel = albedo.mean[min(int((1 - v) * 256), 255), min(int(u * 256), 255)]
    assert np.abs(at.mean[head.faces[face, corner]] - texel).max() < 0.15  # a neighbour at a seam or a rounded edge
    lips, brow = (at.mean[head.masks[name]].mean(0) for name in ("lips", "face"))
    assert lips[0] - lips[1] > brow[0] - brow[1], "lips are redder than the face"


def test_weights_without_albedo_and_light_are_a_beginning(people, tmp_path):
    head = HeadModel.load(OPEN)
    spec = open_regressor(head)
    torch.manual_seed(3)
    network = RegressorNetwork(LandmarkNetwork(), RegressorHead(np.zeros(spec.width), np.ones(spec.width))).eval()
    torch.save({"network": network.state_dict(), "pictures": 1, "steps": 1}, tmp_path / "regressor.pt")
    learner, *_ = stages._learner(Sources(OPEN, people, 8, 8, start=tmp_path / "regressor.pt"))
    crop = torch.rand(2, 3, 128, 128)
    with torch.no_grad():
        told, wanted = learner.network.eval()(crop)[0], network(crop)
    torch.testing.assert_close(told[:, : spec.width], wanted)
    assert told[:, spec.width :].abs().max() < 1
    (tmp_path / "other.pt").write_bytes(b"nothing")
    with pytest.raises(DataError, match=r"other\.pt"):
        stages._learner(Sources(OPEN, people, 8, 8, start=tmp_path / "other.pt"))


def test_a_schedule_says_what_is_unusual_alone():
    """Checkpoints of trainings that began before there was a choice go on."""
    assert Schedule(3, 4, 1e-3).told() == {"steps": 3, "batch": 4, "rate": 1e-3, "decay": 1e-4, "average": 0.999}
    unusual = Plan.of_stage(1).schedule(480)
    assert (unusual.steps, unusual.batch, unusual.rate) == (500, 48, 2e-6)
    assert unusual.told() | {"betas": [0.5, 0.999], "cosine": True} == unusual.told()
    assert Plan.of_stage(2).schedule(320).steps == 50


def test_recognition_networks_of_any_depth_are_read(tmp_path):
    from recipe import recipe_state

    from ofer_models.workshop.networks.arcface import ArcFace

    torch.save(recipe_state(ArcFace((1, 2, 1, 1)).official_slots(), 3), tmp_path / "backbone.pth")
    network = learners.recognition_network(tmp_path / "backbone.pth")
    assert [len(stage) for stage in network.stages] == [1, 2, 1, 1]
    assert not any(parameter.requires_grad for parameter in network.parameters())


def test_the_released_regressor_has_the_maps_that_stage_2_compares():
    network = learners.Mapped(CfrRegressor(SHALLOW)).eval()
    coefficients_, *maps = network(torch.zeros(1, 3, 224, 224))
    assert coefficients_.shape == (1, 257)
    assert [tuple(part.shape[1:]) for part in maps] == [(512, 28, 28), (1024, 14, 14), (2048, 7, 7), (2048,)]
