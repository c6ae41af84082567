"""Training regressors: their truth is exact, their loss is millimetres, covered faces are covered, students learn."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from people_support import write_people
from regressor_support import GROUPS, SIZE, with_regressor

from ofer_models.bundle import Bundle, default_bundle
from ofer_models.bundle.manifest import REGRESSOR
from ofer_models.head.landmark_sets import LANDMARKS68
from ofer_models.head.model import rotation_matrices
from ofer_models.perception.crops import canonical_face
from ofer_models.perception.intrinsics import project
from ofer_models.perception.landmark_crop import CROP_TEMPLATE, INPUT, to_unit
from ofer_models.perception.regressor_crop import TO_CAMERA, cut_face, regressed_pose, regressor_crop
from ofer_models.runtime.stages import StageSet
from ofer_models.workshop.errors import DataError
from ofer_models.workshop.networks.landmarks import LandmarkNetwork
from ofer_models.workshop.networks.regressor import RegressorHead, RegressorNetwork
from ofer_models.workshop.networks.students import ResNetStudent
from ofer_models.workshop.pictures.people import dataset
from ofer_models.workshop.pictures.people.dataset import PeopleSet, PeopleTruth
from ofer_models.workshop.train.eyes.training import NETWORK as LANDMARKS
from ofer_models.workshop.train.regressor import learner, training, uncovered
from ofer_models.workshop.train.regressor.bundle import write_regressor
from ofer_models.workshop.train.regressor.covering import cover, covered
from ofer_models.workshop.train.regressor.faces import TaughtFaces, Teacher, photographed_faces, taught_faces
from ofer_models.workshop.train.regressor.loss import HeadLoss
from ofer_models.workshop.train.regressor.people import PeopleHeads
from ofer_models.workshop.train.regressor.targets import HeadTargets, MirrorArrays, open_regressor

SIDE, COUNT = 160, 12


@pytest.fixture(scope="module")
def people(open_head) -> PeopleHeads:
    """Heads before cameras, without pictures of them: noise in their place."""
    rng = np.random.default_rng(0)
    betas = rng.normal(0, 0.5, (COUNT, open_head.n_shape)).astype(np.float32)
    expression = rng.uniform(0, 0.6, (COUNT, open_head.n_expression)).astype(np.float32)
    jaw = rng.normal(0, 0.05, (COUNT, 3)).astype(np.float32)
    turned = rotation_matrices(rng.normal(0, 0.3, (COUNT, 3)))
    camera = np.array([[600.0, 0, 79], [0, 600, 80], [0, 0, 1]])
    pose = np.concatenate([TO_CAMERA @ turned, np.tile([[0.0], [0.01], [1.2]], (COUNT, 1, 1))], axis=2)
    vertices = open_head.decode(betas, expression, jaw)
    marks = open_head.landmarks(vertices, "mediapipe")
    marks = np.concatenate([marks, marks[:, :10]], axis=1)  # irises, which are not looked at here
    points = np.stack([project(m @ p[:, :3].T + p[:, 3], camera) for m, p in zip(marks, pose, strict=True)])
    pictures = PeopleSet(
        [rng.integers(0, 255, (COUNT, SIDE, SIDE, 3), dtype=np.uint8)], points.astype(np.float32),
        np.ones((COUNT, 478), bool),
    )  # fmt: skip
    truth = PeopleTruth(betas, expression, jaw, np.tile(camera, (COUNT, 1, 1)), pose)
    return PeopleHeads(pictures, HeadTargets.of(open_head, pictures, truth))


def reprojected(head, told: dict[str, np.ndarray]) -> np.ndarray:
    """Landmarks (468, 2) in the crop's unit, y down, of one face's groups."""
    vertices = head.decode(told["shape"], told["expression"], told["jaw"], rotation=told["rotation"])
    points = head.landmarks(vertices, "mediapipe")[:, :2] + told["camera"][1:]
    return told["camera"][0] * points * [1, -1]


@pytest.mark.parametrize("augmented", [False, True])
def test_the_truth_of_a_crop_puts_the_head_where_its_points_are(open_head, people, augmented):
    """Within what a weak perspective leaves open."""
    indices, spec, mirror = np.arange(COUNT), open_regressor(open_head), MirrorArrays.of(open_head)
    if augmented:
        from ofer_models.workshop.train.eyes.batches import augmented_crops

        _, points, visible, *cut = augmented_crops(people.pictures, indices, mirror.points, np.random.default_rng(1))
        assert cut[1].any() and not cut[1].all()
        true = people.targets.of_crops(indices, visible.numpy(), *cut, mirror)
        points = points.numpy()
    else:
        true = people.targets.of_crops(indices, people.pictures.visible)
        points = to_unit(people.pictures.points - (SIDE - INPUT) // 2)
    for row, own in zip(true, points, strict=True):
        apart = np.linalg.norm(reprojected(open_head, spec.split(row)) - own[:468], axis=1)
        assert INPUT / 2 * apart.mean() < 2.5


def test_the_truth_is_the_pose_before_the_pictures_camera(open_head, people):
    spec, matrix = open_regressor(open_head), np.array([[1.0, 0, -16], [0, 1, -16]])
    true = people.targets.of_crops(np.arange(COUNT), people.pictures.visible)
    camera = np.array([[600.0, 0, 79], [0, 600, 80], [0, 0, 1]])
    for row in true:
        groups = spec.split(row)
        identity = open_head.identity(groups["shape"])
        middle = open_head.landmarks(identity.vertices, "mediapipe").mean(0)
        pose = regressed_pose(groups, spec, matrix, camera, identity.joints[0], middle)
        assert np.abs(pose.translation - [0, 0.01, 1.2]).max() < 0.03
        np.testing.assert_allclose(pose.rotation @ pose.rotation.T, np.eye(3), atol=1e-6)
    turned = [pose_of(people, row) for row in range(COUNT)]
    for row, rotation in zip(true, turned, strict=True):
        groups = spec.split(row)
        found = regressed_pose(groups, spec, matrix, camera, np.zeros(3), np.zeros(3)).rotation
        assert np.degrees(np.arccos(np.clip((np.trace(found.T @ rotation) - 1) / 2, -1, 1))) < 0.1


def pose_of(people: PeopleHeads, row: int) -> np.ndarray:
    rng = np.random.default_rng(0)
    rng.normal(0, 0.5, (COUNT, 132)), rng.uniform(0, 0.6, (COUNT, 50)), rng.normal(0, 0.05, (COUNT, 3))
    return TO_CAMERA @ rotation_matrices(rng.normal(0, 0.3, (COUNT, 3)))[row]


def test_covered_points_that_face_the_camera_are_the_occlusion(people):
    visible = people.pictures.visible.copy()
    assert people.targets.of_crops(np.arange(COUNT), visible)[:, -1].max() == 0
    visible[:, ::2] = False
    half = people.targets.of_crops(np.arange(COUNT), visible)[:, -1]
    assert ((half > 0.4) & (half < 0.6)).all()


def test_the_loss_is_zero_at_the_truth_and_millimetres_elsewhere(open_head, people):
    spec = open_regressor(open_head)
    loss = HeadLoss(open_head, spec)
    true = torch.from_numpy(people.targets.of_crops(np.arange(COUNT), people.pictures.visible))
    assert float(loss(true, true)) < 0.3
    moved = true.clone()
    moved[:, 0] += 1
    vertices = open_head.shapedirs[open_head.masks["frontal"], :, 0]
    wanted = 1000 * np.sqrt((((vertices - vertices.mean(0)) ** 2).sum(1)).mean())
    parts = loss.parts(moved, true)
    assert float(parts["identity"].mean()) == pytest.approx(wanted, rel=0.02)
    assert float(parts["expression"].mean()) < 0.1 and float(parts["camera"].mean()) < 0.1
    shifted = true.clone()
    shifted[:, -2] += 0.005  # y of the camera, m
    assert float(loss.parts(shifted, true)["camera"].mean()) == pytest.approx(5, rel=0.02)
    turned = true.clone()
    start = sum(list(spec.groups.values())[:3])
    turned[:, start] += 0.1
    assert float(loss.parts(turned, true)["rotation"].mean()) == pytest.approx(8, rel=0.02)
    assert float(loss.parts(turned, true)["camera"].mean()) > 3


def tiny_network(open_head, bias: float = 0.0) -> RegressorNetwork:
    torch.manual_seed(0)
    width = open_regressor(open_head).width
    network = RegressorNetwork(LandmarkNetwork(), RegressorHead(np.full(width, bias), np.ones(width)))
    return network.eval()


def test_a_trained_network_becomes_the_bundle_s_regressor(open_bundle, open_head, tmp_path):
    folder = with_regressor(open_bundle.path, tmp_path / "bundle", {})
    network, spec = tiny_network(open_head, 0.1), open_regressor(open_head)
    bundle = write_regressor(network, spec, open_head.sha256, folder)
    assert bundle.files["regressor.onnx"].commercial_use
    assert (folder / "regressor.onnx").stat().st_size < 3.2e6
    regressor = StageSet(bundle, names=(REGRESSOR,)).regressor
    assert regressor.spec.groups == spec.groups
    points = canonical_face() * 60 + [80, 90, 0]
    picture = np.random.default_rng(0).integers(0, 255, (160, 160, 3), np.uint8)
    crops, _ = regressor_crop(picture, points[None], spec.crop)
    with torch.no_grad():
        expected = network(torch.from_numpy(crops)).numpy()
    found = np.concatenate(list(regressor(crops).values()), axis=1)
    assert np.abs(found - expected).max() < 1e-2 * np.abs(expected).max()  # weights in bytes
    with pytest.raises(DataError, match="another head"):
        write_regressor(network, spec, "0" * 64, folder)


def test_without_a_landmark_network_the_training_says_what_to_run(tmp_path):
    with pytest.raises(DataError, match="ofer train eyes"):
        training.train_regressor(Path("none"), tmp_path, tmp_path, training.Plan.smoke())


def test_one_that_never_saw_a_covered_face_sees_no_covered_face(open_head, tmp_path, monkeypatch):
    monkeypatch.setattr(dataset, "SHARD", 8)
    write_people(tmp_path, open_head, 8)
    seen, augmented = [], PeopleHeads.augmented

    def watched(heads, indices, mirror, rng, **how):
        crops, true = augmented(heads, indices, mirror, rng, **how)
        seen.append((indices, how, true))
        return crops, true

    monkeypatch.setattr(PeopleHeads, "augmented", watched)
    plan, head = uncovered.Plan(8, 4, 8, 4), default_bundle() / "head.npz"
    network = uncovered.train_uncovered(head, tmp_path / "work", tmp_path, plan)
    assert {int(i) for indices, _, _ in seen for i in indices} == {0, 2, 4, 6}
    assert all(how == {"blocks": 0.0} for _, how, _ in seen)
    assert max(float(true[:, -1].max()) for *_, true in seen) < 0.3  # a part of a face may leave the crop
    again = uncovered.train_uncovered(head, tmp_path / "work", tmp_path, plan)
    for name, value in network.state_dict().items():
        assert torch.equal(value, again.state_dict()[name]), name
    with pytest.raises(DataError, match="too few"):
        uncovered.train_uncovered(head, tmp_path / "other", tmp_path, uncovered.Plan(8, 1, 8, 64))


@pytest.fixture(scope="module")
def teacher(open_bundle, tmp_path_factory) -> Teacher:
    folder = tmp_path_factory.mktemp("teacher") / "bundle"
    return Teacher(Bundle.load(with_regressor(open_bundle.path, folder, {"shape": 0.1}, {"shape": 2.0, "light": 1.0})))


def faces_of(count: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Faces of different brightness, and points of the canonical face in their middle."""
    points = canonical_face() * 55 + [80, 85, 0]
    return [(np.full((160, 160, 3), 40 + 7 * n % 200, np.uint8), points) for n in range(count)]


def test_the_teacher_is_asked_about_uncovered_faces_once(teacher, tmp_path):
    spec = learner.student_spec(teacher.spec, "small")
    made_of = {"teacher": teacher.sha256}
    faces = faces_of(40)
    taught = taught_faces(teacher, spec.crop, faces, tmp_path / "faces.npz", made_of)
    assert taught.crops.shape == (40, 128, 128, 3) and taught.told.shape == (40, sum(GROUPS.values()))
    own = np.stack([cut_face(*face, teacher.spec.crop)[0] for face in faces])
    np.testing.assert_allclose(taught.told, teacher(own), atol=1e-6)
    again = taught_faces(teacher, spec.crop, (), tmp_path / "faces.npz", made_of)
    np.testing.assert_array_equal(again.told, taught.told)
    with pytest.raises(DataError, match="remove that file"):
        taught_faces(teacher, spec.crop, faces, tmp_path / "faces.npz", {"teacher": "another"})
    with pytest.raises(DataError, match="no uncovered face"):
        taught_faces(teacher, spec.crop, (), tmp_path / "none.npz", made_of)


def test_a_student_sees_the_same_part_of_the_picture(teacher):
    """At another size: the five points lie at the same places, in parts of the crop."""
    for backbone, size in learner.BACKBONES.items():
        crop = learner.student_spec(teacher.spec, backbone).crop
        assert crop.size == size
        np.testing.assert_allclose((crop.template + 0.5) / size, (teacher.spec.crop.template + 0.5) / SIZE)


def test_faces_are_covered_by_something_and_always_by_the_same():
    rng = np.random.default_rng(0)
    crop = np.full((128, 128, 3), 120, np.uint8)
    marks = (canonical_face()[LANDMARKS68, :2] * 40 + 64).astype(np.float32)
    shares = [np.mean((cover(crop, marks, rng) != crop).any(-1)) for _ in range(60)]
    assert (crop == 120).all() and np.mean([share > 0.01 for share in shares]) > 0.7 and np.median(shares) > 0.04
    both = np.stack([crop] * 3)
    np.testing.assert_array_equal(covered(both, np.stack([marks] * 3), 5), covered(both, np.stack([marks] * 3), 5))


def students_faces(teacher: Teacher, tmp_path: Path) -> TaughtFaces:
    spec = learner.student_spec(teacher.spec, "small")
    return taught_faces(teacher, spec.crop, faces_of(60), tmp_path / "faces.npz", {"teacher": teacher.sha256})


def write_landmarks(folder: Path) -> Path:
    torch.manual_seed(1)
    torch.save({"network": LandmarkNetwork().state_dict(), "pictures": 1, "steps": 1}, folder / LANDMARKS)
    return folder / LANDMARKS


class Stopped(Exception):
    pass


def test_a_stopped_student_goes_on_to_the_same_weights(teacher, tmp_path, monkeypatch):
    """With a backbone of two layers, so that it takes no time."""
    monkeypatch.setattr(learner, "make_student", lambda backbone, faces, landmarks: tiny_student(faces))
    faces, plan = students_faces(teacher, tmp_path), learner.Plan(12, 16)

    def run(name: str) -> torch.nn.Module:
        (tmp_path / name).mkdir(exist_ok=True)
        return learner.train_learner(teacher, faces, "small", tmp_path, tmp_path / name, plan)

    straight = run("a")
    rows = json.loads((tmp_path / "a" / learner.CURVE).read_text())
    assert np.mean([row["loss"] for row in rows[-3:]]) < np.mean([row["loss"] for row in rows[:3]])
    assert {"student_covered", "student_uncovered"} <= rows[-1].keys()
    assert (tmp_path / "a" / "learner.png").is_file() and (tmp_path / "a" / learner.NETWORK).is_file()
    keeper, saved = learner.Keeper, []

    class Often(keeper):
        def save(self, state):
            super().save(state)
            saved.append(state["step"])
            if len(saved) == 3:
                raise Stopped

    monkeypatch.setattr(learner, "Keeper", lambda *args, **kw: Often(*args, seconds=-1.0, **kw))
    with pytest.raises(Stopped):
        run("b")
    monkeypatch.setattr(learner, "Keeper", keeper)
    for (name, a), b in zip(straight.state_dict().items(), run("b").state_dict().values(), strict=True):
        assert torch.equal(a, b), name


def tiny_student(faces: TaughtFaces) -> torch.nn.Module:
    layers = torch.nn.AvgPool2d(32), torch.nn.Flatten(), torch.nn.Linear(48, faces.told.shape[1])
    return torch.nn.Sequential(*layers)


def test_the_small_student_begins_at_the_landmark_network_and_all_of_it_is_trained(teacher, tmp_path):
    faces, landmarks = students_faces(teacher, tmp_path), write_landmarks(tmp_path)
    student = learner.make_student("small", faces, landmarks).train()
    weights = torch.load(landmarks, weights_only=True)["network"]
    for name, value in student.trunk.state_dict().items():
        assert torch.equal(value, weights[f"features.{name}"]), name
    student(torch.rand(2, 3, 128, 128)).sum().backward()
    assert all(parameter.grad is not None for parameter in student.parameters())
    with pytest.raises(DataError, match="ofer train eyes"):
        learner.make_student("small", faces, tmp_path / "none.pt")


def test_the_loss_of_a_student_counts_every_group_the_same(teacher):
    loss = learner.GroupLoss(teacher.spec, torch.full((teacher.spec.width,), 0.5))
    told = torch.zeros(4, teacher.spec.width)
    start = 0
    for size in teacher.spec.groups.values():
        wanted = told.clone()
        wanted[:, start : start + size] = 0.5
        assert float(loss(told, wanted)) == pytest.approx(1 / len(GROUPS), rel=1e-5)
        start += size


def test_a_resnet_student_tells_the_mean_at_first_and_has_a_gradient():
    student = ResNetStudent(np.full(5, 2.0), np.full(5, 0.1), (1, 1, 1, 1))
    told = student(torch.zeros(2, 3, 64, 64))
    assert told.shape == (2, 5) and (told - 2).abs().max() < 1
    told.sum().backward()
    assert all(parameter.grad is not None for parameter in student.parameters())


def test_photographs_without_a_face_are_named_and_left_out(tmp_path):
    import cv2
    from skimage.data import astronaut

    cv2.imwrite(str(tmp_path / "someone.png"), cv2.cvtColor(astronaut(), cv2.COLOR_RGB2BGR))
    cv2.imwrite(str(tmp_path / "nobody.png"), np.full((200, 200, 3), 90, np.uint8))
    (tmp_path / "broken.jpg").write_bytes(b"\xff\xd8\xff not a picture")
    said: list[str] = []
    faces = list(photographed_faces(tmp_path, lambda iterable, text, total: iterable, said.append))
    assert len(faces) == 1 and faces[0][1].shape[0] == 478
    assert sorted(line.split()[0] for line in said) == ["broken.jpg", "nobody.png"]
    with pytest.raises(DataError, match="no photographs"):
        list(photographed_faces(tmp_path / "nothing", lambda iterable, text, total: iterable))


def test_the_training_starts_at_the_crop_that_the_pipeline_cuts(open_head):
    spec = open_regressor(open_head)
    np.testing.assert_array_equal(spec.crop.template, CROP_TEMPLATE)
