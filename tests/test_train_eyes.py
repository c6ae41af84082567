"""The landmark network: what it is shown, what it minimises, and a training that starts, goes on and is measured."""

from __future__ import annotations

import functools
import json
import shutil

import numpy as np
import pytest

pytest.importorskip("torch", reason="training needs torch")
pytest.importorskip("numba", reason="the renderer needs numba (`make train-env`)")

import torch

from ofer_models.bundle import Bundle
from ofer_models.head.landmark_sets import LANDMARKS68
from ofer_models.perception.crops import canonical_face, five_points
from ofer_models.perception.encoder_inputs import crop_blob
from ofer_models.perception.landmark_crop import CROP_TEMPLATE, HALF, INPUT, POINTS, landmark_crop, to_unit
from ofer_models.runtime.onnxruntime_backend import OnnxStage
from ofer_models.workshop.errors import DataError, EvaluationError
from ofer_models.workshop.measure.eyes.report import write_report
from ofer_models.workshop.networks import landmarks
from ofer_models.workshop.networks.landmarks import LandmarkNetwork, PointHeads, canonical_points
from ofer_models.workshop.pictures.people import dataset
from ofer_models.workshop.pictures.people.dataset import PeopleSet
from ofer_models.workshop.train.eyes import training
from ofer_models.workshop.train.eyes.batches import augmented, plain
from ofer_models.workshop.train.eyes.faces import inner_errors, load_faces
from ofer_models.workshop.train.eyes.loss import PAIRS, difference_loss, landmark_loss
from ofer_models.workshop.train.eyes.stage import put_into
from ofer_models.workshop.train.eyes.validation import on_renderings, predict, rendering_figures
from ofer_models.workshop.train.loop import Keeper
from ofer_models.workshop.train.mirror import mirrored_order

SIZE = 160
ORDER = mirrored_order(canonical_face())


def face(size: float = 40.0) -> np.ndarray:
    """(478, 2) px of a frontal face in the middle of a picture."""
    return canonical_face()[:, :2] * size + SIZE / 2


def dotted(points: np.ndarray, marked: int) -> np.ndarray:
    """A dark picture with a bright dot on one point."""
    picture = np.full((SIZE, SIZE, 3), 20, np.uint8)
    y, x = np.mgrid[:SIZE, :SIZE]
    x0, y0 = points[marked]
    picture[(x - x0) ** 2 + (y - y0) ** 2 < 6] = 250
    return picture


def test_the_crop_lays_the_five_points_on_the_template():
    turn = np.array([[0.0, -3.0], [3.0, 0.0]])  # large and on its side
    points = face() @ turn.T + [700, 100]
    crop, matrix = landmark_crop(np.zeros((480, 640, 3), np.uint8), points)
    placed = points @ matrix[:, :2].T + matrix[:, 2]
    assert crop.shape == (INPUT, INPUT, 3)
    assert np.abs(five_points(placed) - CROP_TEMPLATE).max() < 5  # a face's own form
    assert np.abs(to_unit(placed)).max() < 1  # the whole face


def test_points_stay_on_their_pixels_whatever_is_done_to_the_picture():
    points, marked = face(), 291
    pictures = PeopleSet([dotted(points, marked)[None]], points[None].astype(np.float32), np.ones((1, POINTS), bool))
    mirrored = 0
    rng = np.random.default_rng(3)
    for _ in range(30):
        crops, unit, visible = (value.numpy() for value in augmented(pictures, np.array([0]), ORDER, rng))
        pixels = unit[0] * HALF + (INPUT - 1) / 2
        flipped = np.linalg.norm(pixels[291] - pixels[61]) > 0 and pixels[263, 0] < pixels[33, 0]
        assert not flipped  # a mirrored face is a face again: its left eye is on the image's right
        brightest = np.unravel_index(crops[0].astype(float).sum(-1).argmax(), (INPUT, INPUT))[::-1]
        distance = {name: np.linalg.norm(pixels[name] - brightest) for name in (291, 61)}
        own = min(distance, key=distance.get)
        mirrored += own == 61
        if visible[0].all():  # no block that may be brighter than the dot
            assert distance[own] < 3.5
    assert 5 < mirrored < 25


def test_what_a_block_covers_is_not_seen():
    points = face()
    pictures = PeopleSet([dotted(points, 4)[None]], points[None].astype(np.float32), np.ones((1, POINTS), bool))
    rng = np.random.default_rng(0)
    hidden = [1 - augmented(pictures, np.array([0]), ORDER, rng)[2].float().mean().item() for _ in range(60)]
    some = [share for share in hidden if share > 0.01]
    assert 0.08 < len(some) / len(hidden) < 0.45 and np.median(some) < 0.5


def test_plain_crops_are_the_middle_of_the_pictures():
    points = face()
    pictures = PeopleSet([dotted(points, 4)[None]], points[None].astype(np.float32), np.ones((1, POINTS), bool))
    crops, unit, _ = plain(pictures, np.array([0]))
    at = np.round(unit[0, 4].numpy() * HALF + (INPUT - 1) / 2).astype(int)
    assert crops[0, at[1], at[0], 0] == 250


def test_the_loss_is_least_at_the_truth_with_deviations_as_large_as_the_errors():
    torch.manual_seed(0)
    sizes = torch.linspace(0.05, 0.3, 6)
    errors = torch.randn(500, 6, 2) * sizes[:, None]
    shift = torch.full((6, 2), 0.1, requires_grad=True)
    log_deviation = torch.full((6,), -1.0, requires_grad=True)
    optimiser = torch.optim.Adam([shift, log_deviation], 0.03)
    seen = torch.ones(500, 6, dtype=torch.bool)
    for _ in range(150):
        optimiser.zero_grad()
        arguments = (errors + shift, log_deviation.expand(500, 6), torch.zeros(500, 6), torch.zeros(500, 6, 2), seen)
        landmark_loss(*arguments).backward()
        optimiser.step()
    assert shift.abs().max() < 0.05
    assert torch.allclose(log_deviation.exp(), sizes, rtol=0.15)


def test_a_hidden_point_pulls_less_than_one_that_is_seen():
    points = torch.full((1, 2, 2), 0.1, requires_grad=True)
    log_deviation = torch.tensor([[-3.0, -1.0]])
    landmark_loss(points, log_deviation, torch.zeros(1, 2), torch.zeros(1, 2, 2), torch.ones(1, 2)).backward()
    sure, unsure = points.grad.norm(dim=-1)[0]
    assert sure > 4 * unsure > 0


def test_visibility_counts():
    zero = torch.zeros(1, 2, 2)
    right, wrong = torch.tensor([[5.0, -5.0]]), torch.tensor([[-5.0, 5.0]])
    seen = torch.tensor([[True, False]])
    arguments = (zero, torch.zeros(1, 2))
    assert landmark_loss(*arguments, right, zero, seen) < landmark_loss(*arguments, wrong, zero, seen)


def test_differences_are_worth_what_they_are_off_and_hidden_ones_less():
    true = torch.from_numpy(canonical_points())[None] / HALF
    seen = torch.ones(1, POINTS, dtype=torch.bool)
    assert difference_loss(true + 0.2, true, seen) < 1e-9, "a face that lies elsewhere has the same differences"
    closed = true.clone()
    closed[:, [160, 159, 158]] = true[:, [144, 145, 153]]
    wide = true.clone()
    wide[:, [61, 291]] += torch.tensor([[-0.02, 0], [0.02, 0]])
    once, other = difference_loss(closed, true, seen), difference_loss(wide, true, seen)
    assert once > 0 and other > 0
    hidden = seen.clone()
    hidden[:, [160, 159, 158]] = False
    assert difference_loss(closed, true, hidden) < once / 3
    assert {index for pair in PAIRS for index in pair} <= set(range(POINTS))


def test_a_point_is_found_where_its_map_is_bright():
    heads = PointHeads(4, 4).eval()
    side = INPUT // 8
    coarse, fine = torch.zeros(1, 4, side, side), torch.zeros(1, 4, 2 * side, 2 * side)
    coarse[0, 0, 5, 11], coarse[0, 1, 5, 11] = 1, 3
    fine[0, 2, 10:12, 22:24] = 2  # the four fine cells of that place
    with torch.no_grad():
        heads.look[7, 3], heads.bias[7] = 60, 0
        heads.tell[7, 1, 2], heads.correct[7, 2, 3] = 0.5, 0.25
        told = heads(coarse, fine)[0, 7]
    assert told[:2].tolist() == pytest.approx([(11.5 / side) * 2 - 1, (5.5 / side) * 2 - 1], abs=1e-3)
    assert told[2:].tolist() == pytest.approx([1.5, 0.5], abs=1e-2), "what the maps show there, and nowhere else"


def test_points_are_looked_up_in_training_as_when_they_are_told():
    torch.manual_seed(0)
    heads, side = PointHeads(4, 6), INPUT // 8
    for weights in (heads.look, heads.tell, heads.correct):
        torch.nn.init.normal_(weights)  # so that many points lie outside of the crop
    coarse, fine = torch.randn(3, 4, side, side), torch.randn(3, 6, 2 * side, 2 * side)
    with torch.no_grad():
        learned, told = heads.train()(coarse, fine), heads.eval()(coarse, fine)
    assert (told[..., :2].abs() > 1).any() and torch.allclose(learned, told, atol=1e-4)


def test_an_untrained_network_says_the_canonical_face():
    network = LandmarkNetwork().eval()
    points, deviation, visible = network(torch.zeros(2, 3, INPUT, INPUT))
    assert points.shape == (2, POINTS, 2) and np.allclose(points[1].detach(), canonical_points(), atol=0.5)
    assert np.allclose(five_points(canonical_points()), CROP_TEMPLATE, atol=6), "as an aligned crop shows it"
    assert deviation.shape == visible.shape == (2, POINTS) and (deviation > 0).all()


def test_figures_of_known_errors():
    rng = np.random.default_rng(0)
    true = np.repeat(face()[None], 200, axis=0)
    seen = np.broadcast_to(np.arange(POINTS) < 300, (200, POINTS))
    deviation = np.where(seen, 1.0, 3.0)
    points = true + rng.normal(0, 1, true.shape) * deviation[..., None]
    figures = rendering_figures(points, deviation, seen.astype(float), true, seen)
    eyes = five_points(face())
    size = np.linalg.norm(eyes[1] - eyes[0])
    assert figures["visible_mean"] == pytest.approx(100 * np.sqrt(np.pi / 2) / size, rel=0.02)
    assert figures["hidden_mean"] == pytest.approx(3 * figures["visible_mean"], rel=0.02)
    assert figures["within_68_visible"] == pytest.approx(0.683, abs=0.01)
    assert figures["within_95_hidden"] == pytest.approx(0.95, abs=0.01)
    assert figures["visibility_accuracy"] == 1


def test_inner_errors_forgive_a_constant_offset_in_the_faces_own_axes():
    annotated, points = [], []
    for angle, size in ((0.0, 40), (0.7, 90), (-0.4, 25)):
        turn = size * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        own = canonical_face()[:, :2]
        points.append(own @ turn.T)
        marks = own[LANDMARKS68].copy()
        marks[30] += [0.05, -0.1]  # this annotator puts the nose's tip elsewhere
        annotated.append(marks @ turn.T)
    plainly, forgiven = inner_errors(np.array(points), np.array(annotated))
    across = canonical_face()[[LANDMARKS68[36], LANDMARKS68[45]], :2]
    expected = np.hypot(0.05, 0.1) / np.linalg.norm(across[1] - across[0])
    assert plainly[:, 13].tolist() == pytest.approx([expected] * 3, rel=1e-6)
    assert forgiven.max() < 1e-9


def test_annotated_faces_are_found(shared):
    faces = load_faces([shared / "images" / "annotated"])
    assert len(faces) >= 15
    assert 100 * inner_errors(faces.points, faces.annotated)[0].mean() < 8  # MediaPipe's own, about 5
    with pytest.raises(DataError, match=r"no points\.json"):
        load_faces([shared / "facts"])


@pytest.fixture
def work(tmp_path, monkeypatch):
    """A working folder with 16 pictures of a dotted face that moves, in shards of eight."""
    monkeypatch.setattr(dataset, "SHARD", 8)
    monkeypatch.setattr(dataset, "generate", lambda *arguments, **options: None)
    for name, value in (("_CHANNELS", (8, 8, 8, 8, 64)), ("_RESIDUALS", (0, 0, 0, 0, 1)), ("_MERGED", (8, 8, 8))):
        monkeypatch.setattr(landmarks, name, value)
    rng = np.random.default_rng(1)
    for folder, shards in (("pictures", 2), ("held_out", 1)):
        (tmp_path / folder).mkdir()
        for shard in range(shards):
            points = np.stack([face() + rng.normal(0, 6, 2) for _ in range(8)]).astype(np.float32)
            np.save(tmp_path / folder / f"{shard:05d}.npy", np.stack([dotted(own, 4) for own in points]))
            visible = np.packbits(rng.uniform(size=(8, POINTS)) < 0.8, axis=1)
            np.savez(tmp_path / folder / f"{shard:05d}.npz", points=points, visible=visible)
    return tmp_path


def test_a_training_learns_from_more_pictures_where_it_stopped_with_fewer(work):
    lines: list[str] = []
    first = training.train_eyes(work / "no-head", work, training.Plan(8, 4, 8, 4), log=lines.append)
    curve = json.loads((work / training.CURVE).read_text())
    assert [row["step"] for row in curve] == [2, 4, 6, 8] and curve[-1]["pictures"] == 8
    again = training.train_eyes(work / "no-head", work, training.Plan(8, 4, 8, 4), log=lines.append)
    assert "has learned from 8 pictures already" in lines[-1]
    assert all(torch.equal(a, b) for a, b in zip(first.state_dict().values(), again.state_dict().values(), strict=True))
    training.train_eyes(work / "no-head", work, training.Plan(16, 1, 8, 8), log=lines.append)
    curve = json.loads((work / training.CURVE).read_text())
    assert [row["step"] for row in curve] == [2, 4, 6, 8, 10] and curve[-1]["pictures"] == 16
    assert not (work / "eyes.checkpoint").exists()
    (work / "eyes.checkpoint").write_bytes(b"damaged")
    training.train_eyes(work / "no-head", work, training.Plan(8, 1, 8, 8), again=True, log=lines.append)
    assert (work / "landmarks.before.pt").is_file() and (work / "eyes.before.checkpoint").is_file()


def test_a_stopped_training_goes_on_to_the_same_weights(work, monkeypatch):
    monkeypatch.setattr(training, "Keeper", functools.partial(Keeper, seconds=0.0))
    plan = training.Plan(16, 3, 8, 4)
    whole = training.train_eyes(work / "no-head", work, plan, log=lambda line: None)
    curve = (work / training.CURVE).read_text()
    for name in (training.NETWORK, training.CURVE):
        (work / name).unlink()

    def stop_after_the_second_validation(line: str) -> None:
        if "step 8/" in line:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        training.train_eyes(work / "no-head", work, plan, log=stop_after_the_second_validation)
    lines: list[str] = []
    parts = training.train_eyes(work / "no-head", work, plan, log=lines.append)
    assert "goes on from step 7 of 12" in lines[0] and (work / training.CURVE).read_text() == curve
    assert all(torch.equal(a, b) for a, b in zip(whole.state_dict().values(), parts.state_dict().values(), strict=True))


def test_a_trained_network_is_measured_as_a_robot_runs_it(work, monkeypatch):
    figures = pytest.importorskip("ofer_models.workshop.measure.eyes.figures", reason="`make train-env`")
    monkeypatch.setattr(figures, "_REPEATS", 3)
    with pytest.raises(EvaluationError, match="`ofer train eyes"):
        figures.measure(work)
    (work / training.NETWORK).write_bytes(b"no network")
    with pytest.raises(DataError, match="`--again` trains it anew"):
        figures.measure(work)
    (work / training.NETWORK).unlink()
    network = training.train_eyes(work / "no-head", work, training.Plan(8, 2, 8, 4), log=lambda line: None)
    monkeypatch.setattr(figures, "_mediapipe", lambda pictures: {"visible_mean": 9.0, "ms": 1.0})  # sees no dots
    results = figures.measure(work)
    expected = on_renderings(network, dataset.load(work / "held_out", 8))
    assert results.figures["fp32"]["visible_mean"] == pytest.approx(expected["visible_mean"], rel=1e-3)
    assert results.figures["int8"]["visible_mean"] == pytest.approx(expected["visible_mean"], rel=0.2)
    assert results.about["pictures"] == 8 and results.about["megabytes"]["fp32"] > results.about["megabytes"]["int8"]
    report = write_report(results, work, work / "docs", "ofer evaluate --set eyes")
    assert json.loads(report[0].read_text())["figures"]["fp32"] and report[1].stat().st_size > 1000


def test_a_bundle_s_network_tells_deviations_as_photographs_need_them(work, open_bundle, tmp_path):
    network = training.train_eyes(work / "no-head", work, training.Plan(8, 2, 8, 4), log=lambda line: None)
    pictures = dataset.load(work / "held_out", 8)
    folder = tmp_path / "bundle"
    shutil.copytree(open_bundle.path, folder)
    factor = put_into(folder, network, pictures)
    figures = on_renderings(network, pictures)
    # As wide as a Gaussian of 1.4 times these errors: 0.84 of them lie within one deviation.
    assert factor > 0 and figures["within_68_visible"] > 0.78
    crops, _, _ = plain(pictures, np.arange(8))
    told = OnnxStage(folder / "landmarks.onnx")(crop128=crop_blob(crops.numpy()))
    points, deviation, visible = predict(network, crops)
    assert np.abs(told["points"] - points).max() < 0.5 and np.abs(told["visible"] - visible).max() < 0.05
    assert np.abs(told["deviation"] / deviation - 1).max() < 0.1, "weights are rounded to bytes"
    assert Bundle.load(folder).stages["landmarks"].inputs == {"crop128": ("F", 3, INPUT, INPUT)}
