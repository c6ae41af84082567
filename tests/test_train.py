"""The training stages on random arrays: no renderer, seconds, and yet each must learn what there is to learn."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn

from ofer_models.head import HeadModel
from ofer_models.runtime.onnxruntime_backend import OnnxStage
from ofer_models.runtime.sampler import Sampler
from ofer_models.runtime.solvers import solver_table
from ofer_models.workshop.errors import DataError
from ofer_models.workshop.networks.export import export_sampler
from ofer_models.workshop.pictures.dataset import PictureSet
from ofer_models.workshop.train.augmentation import augment, crop_input
from ofer_models.workshop.train.diffusion_loss import ForwardProcess
from ofer_models.workshop.train.encoders import (
    POINTS,
    Encoders,
    Offsets,
    _known_square,
    _where_known,
    predict,
    region_hidden,
    train_contexts,
)
from ofer_models.workshop.train.loop import Batches, Keeper, Schedule, train
from ofer_models.workshop.train.mirror import Mirror
from ofer_models.workshop.train.rank import METHODS, train_rank
from ofer_models.workshop.train.samplers import draw, make_denoiser, train_denoiser
from ofer_models.workshop.train.tasks import Normaliser, displacements, make_tasks

torch.set_num_threads(1)

FLIP = np.array([-1.0, 1.0, 1.0])
HALF, SHAPES = 20, 6  # vertices of one side; identity components, in pairs that mirror each other
NAMES = ("browLeft", "smile", "browRight")


def quiet(_: str) -> None:
    pass


def symmetric_head(seed: int = 0) -> dict[str, np.ndarray]:
    """Arrays of a head: a cloud of points that is its own mirror image, with coefficients of both sides."""
    rng = np.random.default_rng(seed)
    left = rng.normal(0, 0.08, (HALF, 3))
    left[:, 0] = np.abs(left[:, 0]) + 0.005

    def both(part: np.ndarray, other: np.ndarray) -> np.ndarray:
        return np.concatenate([part, other * FLIP])

    def pair() -> tuple[np.ndarray, np.ndarray]:
        a, b = rng.normal(0, 0.01, (2, HALF, 3))
        return both(a, b), both(b, a)

    # Mixed, so that the mirror's matrix is no mere exchange of columns.
    identity = np.stack([direction for _ in range(SHAPES // 2) for direction in pair()], -1) @ rng.normal(
        0, 0.5, (SHAPES, SHAPES)
    )
    brow_left, brow_right = pair()
    smile = rng.normal(0, 0.01, (HALF, 3))
    weights = rng.uniform(0, 1, (HALF, 5)) * [1, 1, 1, 0, 0]
    arrays = {
        "v_template": both(left, left),
        "shapedirs": np.stack([*np.moveaxis(identity, -1, 0), brow_left, both(smile, smile), brow_right], axis=-1),
        "posedirs": np.zeros((36, 6 * HALF)),
        "J_regressor": np.full((5, 2 * HALF), 1 / (2 * HALF)),
        "kintree_table": np.array([[-1, 0, 1, 1, 1], [0, 1, 2, 3, 4]]),
        "lbs_weights": np.tile(weights / weights.sum(1, keepdims=True), (2, 1)),
        "faces": rng.integers(0, 2 * HALF, (9, 3)),
        "expression_names": np.array(NAMES),
    }
    for start, name in enumerate(("brows", "eyes", "mouth", "face", "frontal")):
        arrays[f"mask_{name}"] = np.arange(start, 2 * HALF)
    return arrays


HEAD = HeadModel(symmetric_head())
# The same of the size of a head's differences: its candidates lie millimetres apart, not decimetres.
SMALL = HeadModel({name: 0.02 * a if name == "shapedirs" else a for name, a in symmetric_head().items()})


def random_pictures(count: int, seed: int) -> PictureSet:
    """Pictures whose landmarks tell the coefficients, plainly, and where they truly are; all else is noise."""
    rng = np.random.default_rng(seed)
    betas = rng.normal(size=(count, SHAPES)).astype(np.float32)
    expression = rng.uniform(0, 1, (count, len(NAMES))).astype(np.float32)
    jaw = 0.2 * rng.normal(size=(count, 3)).astype(np.float32)
    landmarks = 0.01 * rng.normal(size=(count, 478, 6))
    told = np.concatenate([betas, expression, jaw], axis=1)
    landmarks.reshape(count, -1)[:, : 40 * told.shape[1]] += np.tile(0.1 * told, 40)
    visible = rng.uniform(size=(count, 2 * HALF)) < 0.7
    return PictureSet(
        landmarks=landmarks.astype(np.float16), crop=rng.integers(0, 256, (count, 112, 112, 3), np.uint8),
        betas=betas, expression=expression, jaw=jaw, occlusion=rng.uniform(0, 1, count).astype(np.float32),
        visible=np.packbits(visible, axis=1), covered=np.packbits(~visible, axis=1), index=np.arange(count),
        true_landmarks=(1.1 * landmarks[:, :POINTS, :2]).astype(np.float16),
    )  # fmt: skip


def test_normaliser_round_trip():
    rng = np.random.default_rng(0)
    raw = rng.normal(3, [0.5, 2.0, 0.0], (500, 3))
    normaliser = Normaliser.fit(raw)
    normal = normaliser.encode(raw)
    np.testing.assert_allclose(normal.mean(0), 0, atol=1e-4)
    np.testing.assert_allclose(normal[:, :2].std(0), 1, atol=1e-3)
    assert np.isfinite(normal).all()  # a coefficient that never changes
    np.testing.assert_allclose(normaliser.decode(normal), raw, atol=1e-4)


def test_mirrored_coefficients_make_the_mirrored_head():
    mirror, rng = Mirror.of(HEAD), np.random.default_rng(3)
    betas, expression = rng.normal(size=(4, SHAPES)), rng.uniform(0, 1, (4, len(NAMES)))
    values = torch.from_numpy(np.concatenate([expression, 0.4 * rng.normal(size=(4, 3))], axis=1).astype(np.float32))
    vertices = HEAD.decode(betas, expression, jaw=values[:, len(NAMES) :].numpy())
    other = mirror.coefficients(values).numpy()
    assert not np.allclose(other, values)
    mirrored = HEAD.decode(
        betas.astype(np.float32) @ mirror.shape.numpy(), other[:, : len(NAMES)], jaw=other[:, len(NAMES) :]
    )
    swapped = np.concatenate([vertices[:, HALF:], vertices[:, :HALF]], axis=1)
    np.testing.assert_allclose(mirrored, swapped * FLIP, atol=1e-5)


def test_a_mirror_twice_changes_nothing():
    mirror, rng = Mirror.of(HEAD), torch.Generator().manual_seed(0)
    landmarks, values = torch.randn(3, 478, 6, generator=rng), torch.randn(3, len(NAMES) + 3, generator=rng)
    torch.testing.assert_close(mirror.landmarks(mirror.landmarks(landmarks)), landmarks)
    torch.testing.assert_close(mirror.coefficients(mirror.coefficients(values)), values)
    torch.testing.assert_close(mirror.shape @ mirror.shape, torch.eye(SHAPES), atol=1e-4, rtol=0)
    assert not torch.allclose(mirror.landmarks(landmarks), landmarks)


def test_mirrored_landmarks_are_those_of_the_mirrored_picture():
    """Features of a face whose points were mirrored in the image: left and right points change places."""
    from ofer_models.perception.crops import canonical_face, landmark_features

    mirror, rng = Mirror.of(HEAD), np.random.default_rng(0)
    points = 60 * canonical_face() + 100 + rng.normal(0, 1.5, (478, 3))
    in_mirror = (points * [-1, 1, 1] + [300, 0, 0])[mirror.landmark_order.numpy()]
    expected = landmark_features(in_mirror)
    found = mirror.landmarks(torch.from_numpy(landmark_features(points))[None])[0].numpy()
    np.testing.assert_allclose(found, expected, atol=0.03)  # ArcFace's template is a pixel off the middle
    assert np.abs(found - landmark_features(points)).mean() > 0.03


def test_a_symmetric_normaliser_commutes_with_the_mirror():
    mirror, raw = Mirror.of(HEAD), random_pictures(200, 0).coefficients
    normaliser = Normaliser.fit(raw).symmetric(mirror)
    one = mirror.coefficients(torch.from_numpy(normaliser.encode(raw))).numpy()
    other = normaliser.encode(mirror.coefficients(torch.from_numpy(raw)).numpy())
    np.testing.assert_allclose(one, other, atol=1e-4)


def test_epochs_visit_every_sample_once():
    batches = Batches(12, 4, torch.Generator().manual_seed(0))
    drawn = [next(batches) for _ in range(7)]
    assert all(len(index) == 4 for index in drawn)
    for epoch in (drawn[:3], drawn[3:6]):
        assert sorted(torch.cat(epoch).tolist()) == list(range(12))
    assert torch.cat(drawn[:3]).tolist() != torch.cat(drawn[3:6]).tolist()


def fit_a_line(schedule: Schedule, figures: list[float] | None = None):
    """Train y = 2 x + 1; returns the trained network, the raw one, and the averages that validation saw."""
    torch.manual_seed(0)
    x = torch.linspace(-1, 1, 64)[:, None]
    network, seen = nn.Sequential(nn.Linear(1, 1), nn.BatchNorm1d(1, momentum=0.5), nn.Dropout(0.0)), []

    def validate(average: nn.Module) -> float:
        assert not average.training and not torch.is_grad_enabled()
        seen.append(copy.deepcopy(average.state_dict()))
        return figures[len(seen) - 1] if figures else 1 / len(seen)

    trained, history = train(
        network, lambda net, index, _: ((net(x[index]) - 2 * x[index] - 1) ** 2).mean(), 64, schedule,
        validate=validate, name="line", log=quiet,
    )  # fmt: skip
    assert [row[2] for row in history.rows] == (figures or [1 / n for n in range(1, len(seen) + 1)])[: len(seen)]
    return trained, network, seen, history


def same_weights(a: dict, b: dict) -> bool:
    return all(torch.equal(a[name], b[name]) for name in a)


def test_the_loop_learns_and_reports_ten_times():
    _, _, seen, history = fit_a_line(Schedule(200, 16, 0.1))
    assert len(seen) == 10 and [row[0] for row in history.rows] == list(range(20, 201, 20))
    assert history.rows[-1][1] < 0.05 * history.rows[0][1]


def test_no_averaging_is_the_network_itself():
    trained, network, _, _ = fit_a_line(Schedule(50, 16, 0.1, average=0.0))
    assert same_weights(trained.state_dict(), network.state_dict())


def test_the_average_lags_behind_and_starts_quickly():
    trained, network, seen, _ = fit_a_line(Schedule(50, 16, 0.1, average=0.999))
    assert not same_weights(trained.state_dict(), network.state_dict())
    # step / (step + 10) forgets the first weights within tens of steps, where 0.999 would still hold 95 % of them.
    start, end = seen[0]["0.weight"], network.state_dict()["0.weight"]
    assert (trained.state_dict()["0.weight"] - end).abs() < 0.7 * (start - end).abs()
    assert trained.state_dict()["1.num_batches_tracked"] == 50


def test_the_best_average_is_returned():
    figures = [5.0, 4.0, 1.0, 2.0, 3.0, 1.5, 2.0, 2.0, 2.0, 2.0]
    trained, _, seen, _ = fit_a_line(Schedule(50, 16, 0.1), figures)
    assert same_weights(trained.state_dict(), seen[2]) and not same_weights(trained.state_dict(), seen[-1])


class Stopped(Exception):
    """As a kill would end a training, at any line."""


def learn(path, stop_at: int | None = None, seconds: float = 0.0, steps: int = 30, lines: list | None = None):
    """A small network with dropout, noise and an average; stops while computing the loss of a step."""
    torch.manual_seed(3)
    x = torch.randn(50, 6, generator=torch.Generator().manual_seed(1))
    network = nn.Sequential(nn.Linear(6, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.3), nn.Linear(16, 6))
    done = []

    def loss(net: nn.Module, index: torch.Tensor, noise: torch.Generator) -> torch.Tensor:
        done.append(index)
        if len(done) == stop_at:
            raise Stopped
        given = x[index] + 0.1 * torch.randn(x[index].shape, generator=noise)
        return ((net(given) - x[index]) ** 2).mean()

    def validate(average: nn.Module) -> float:
        return float(((average(x) - x) ** 2).mean())

    keeper = Keeper(path, seconds) if path else None
    log = quiet if lines is None else lines.append
    schedule = Schedule(steps, 8, 1e-2, average=0.9)
    trained, history = train(network, loss, len(x), schedule, validate=validate, name="net", log=log, keeper=keeper)
    return trained.state_dict(), history, done


@pytest.mark.parametrize("stops", [(2,), (14,), (4, 9, 9)])
def test_a_stopped_training_comes_to_the_same_weights(tmp_path, stops):
    """Bit by bit, after one stop or several, with dropout, noise and batches that end in the middle of an epoch."""
    whole, history, _ = learn(None)
    for stop in stops:
        with pytest.raises(Stopped):
            learn(tmp_path / "net.checkpoint", stop_at=stop)
    lines: list[str] = []
    again, goes_on, done = learn(tmp_path / "net.checkpoint", lines=lines)
    assert same_weights(again, whole) and goes_on.rows == history.rows
    step = sum(stop - 1 for stop in stops)
    assert len(done) == 30 - step and (step == 1 or f"from step {step} of 30" in lines[0])


def test_a_stop_after_an_old_checkpoint_loses_only_time(tmp_path, monkeypatch):
    """Checkpoints some steps apart, by a clock that ticks whenever it is asked."""
    from ofer_models.workshop.train import loop

    ticks = iter(range(10_000))
    monkeypatch.setattr(loop.time, "monotonic", lambda: float(next(ticks)))
    with pytest.raises(Stopped):
        learn(tmp_path / "net.checkpoint", stop_at=19, seconds=5.0)
    again, _, done = learn(tmp_path / "net.checkpoint", seconds=5.0)
    assert 12 < len(done) < 30
    assert same_weights(again, learn(None)[0])


def test_a_checkpoint_of_another_plan_is_refused_with_both_values(tmp_path):
    with pytest.raises(Stopped):
        learn(tmp_path / "net.checkpoint", stop_at=9)
    with pytest.raises(DataError, match="was made with steps 30, asked for is steps 12; `--again` sets it aside"):
        learn(tmp_path / "net.checkpoint", steps=12)


def test_curves_are_drawn_and_logged(tmp_path):
    from ofer_models.workshop.train.loop import History
    from ofer_models.workshop.train.training_curves import TrainingCurves

    curves, history = TrainingCurves(tmp_path, "idgen"), History()
    for step in (10, 20, 30):
        history.rows.append((step, 1 / step, 2 / step))
        curves(history)
    assert (tmp_path / "idgen.png").stat().st_size > 5000
    reading = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    events = reading.EventAccumulator(str(tmp_path / "tensorboard" / "idgen")).Reload()
    logged = [(event.step, pytest.approx(event.value)) for event in events.Scalars("loss/held out")]
    assert logged == [(step, 2 / step) for step in (10, 20, 30)]


def test_hidden_shares():
    visible = np.zeros((2, 2 * HALF), bool)
    visible[0] = True
    visible[1, ::2] = True
    pictures = random_pictures(2, 0)
    hidden = region_hidden(HEAD, PictureSet(**(vars(pictures) | {"visible": np.packbits(visible, axis=1)})))
    np.testing.assert_allclose(hidden[0], 0)
    assert hidden[1, 0] == pytest.approx(0.5) and hidden.shape == (2, 4)


def test_unknown_occlusion_teaches_nothing():
    pictures = random_pictures(4, 0)
    pictures.occlusion[1:] = np.nan
    hidden = region_hidden(HEAD, pictures)
    assert np.isfinite(hidden[0]).all() and np.isnan(hidden[1:]).all()
    guess = torch.zeros(4, requires_grad=True)
    _where_known(guess, torch.from_numpy(pictures.occlusion)).backward()
    assert guess.grad[0] != 0 and (guess.grad[1:] == 0).all()
    assert _where_known(torch.zeros(2), torch.full((2,), float("nan"))) == 0


def test_augmentation_keeps_shapes_and_changes_each_picture():
    generator = torch.Generator().manual_seed(0)
    crops = crop_input(torch.from_numpy(random_pictures(3, 0).crop))
    assert crops.shape == (3, 3, 112, 112) and crops.min() == -1 and crops.max() == 1
    landmarks = torch.zeros(3, 478, 6)
    moved, changed = augment(landmarks, crops, generator)
    assert moved.shape == landmarks.shape and changed.shape == crops.shape
    assert 0 < moved.abs().max() < 0.06 and changed.abs().max() <= 1.2
    gains = [(changed[i].std() / crops[i].std()).item() for i in range(3)]
    assert len({round(gain, 3) for gain in gains}) == 3


def test_an_error_counts_as_far_as_it_moves_vertices():
    """The metric of a task is the mean squared distance of what the head model itself makes of an error."""
    pictures, rng = random_pictures(50, 0), np.random.default_rng(1)
    normaliser = Normaliser.fit(pictures.coefficients)
    tasks = make_tasks(HEAD, pictures, normaliser, None)
    betas, rest = rng.normal(size=(5, SHAPES)), HEAD.decode(np.zeros(SHAPES, np.float32))
    moved = (HEAD.decode(betas.astype(np.float32)) - rest)[:, HEAD.masks["frontal"]]
    moved -= moved.mean(1, keepdims=True)
    assert tasks["identity"].distance(betas) == pytest.approx((moved**2).sum(-1).mean(), rel=1e-4)
    raw = 0.02 * rng.normal(size=(5, len(NAMES) + 3)).astype(np.float32)  # small, as turning is no sum
    moved = HEAD.decode(np.zeros((5, SHAPES), np.float32), raw[:, : len(NAMES)], jaw=raw[:, len(NAMES) :]) - rest
    expected = (moved[:, HEAD.masks["face"]] ** 2).sum(-1).mean()
    assert tasks["expression"].distance(raw / normaliser.deviation) == pytest.approx(expected, rel=0.02)
    assert displacements(HEAD, np.arange(4)).shape == (SHAPES + len(NAMES) + 3, 4, 3)


def test_what_true_landmarks_teach():
    pictures, index = random_pictures(6, 0), torch.tensor([4, 1])
    offset = Offsets(pictures)(index)
    expected = pictures.true_landmarks[[4, 1]].astype(float) - pictures.landmarks[[4, 1], :POINTS, :2]
    np.testing.assert_allclose(offset / offset.std(), expected / expected.std(), atol=0.02)
    assert 0.3 < offset.std() < 3
    unknown = Offsets(PictureSet(**(vars(pictures) | {"true_landmarks": None})))(index)
    assert torch.isnan(unknown).all() and _known_square(torch.ones_like(unknown), unknown) == 0
    assert _known_square(torch.zeros(2), torch.tensor([3.0, torch.nan])) == 4.5
    mirror = Mirror.of(HEAD)
    points = torch.randn(2, 478, 6, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(mirror.points(points[:, :POINTS, :2]), mirror.landmarks(points)[:, :POINTS, :2])


@pytest.mark.parametrize("told", [True, False])
def test_the_encoders_learn_what_landmarks_tell(told):
    """With and without the landmarks' true places, which photographs do not come with."""
    training, held_out = random_pictures(256, 1), random_pictures(64, 2)
    if not told:
        training = PictureSet(**(vars(training) | {"true_landmarks": None}))
    mirror = Mirror.of(HEAD)
    normaliser = Normaliser.fit(training.coefficients).symmetric(mirror)
    tasks, unseen = (make_tasks(HEAD, pictures, normaliser, mirror) for pictures in (training, held_out))
    network, history = train_contexts(
        HEAD, training, held_out, tasks, unseen, mirror, Schedule(12, 32, 2e-3, average=0.8), seed=0, log=quiet
    )
    assert len(history.rows) == 12 and np.isfinite([row[1:] for row in history.rows]).all()
    assert history.rows[-1][2] < history.rows[0][2] < 1.5  # relative to guessing the mean
    for name, task in unseen.items():
        means, contexts = predict(network, name, held_out, size=30)
        assert means.shape == task.targets.shape and contexts.shape == (64, 256)
        np.testing.assert_allclose(contexts.std(1), 1, atol=0.02)  # layer-normalised
        np.testing.assert_allclose(contexts, predict(network, name, held_out, size=64)[1], atol=1e-4)
    context, occlusion = network.encoder("expression", occlusion=True)(
        torch.from_numpy(held_out.landmarks).float(), crop_input(torch.from_numpy(held_out.crop))
    )
    np.testing.assert_allclose(context.detach(), contexts, atol=1e-4)
    assert occlusion.shape == (64, 1) and 0 < occlusion.min() and occlusion.max() < 1


@pytest.mark.parametrize(("name", "outputs"), [("identity", ["context"]), ("expression", ["context", "occlusion"])])
def test_exported_encoders_equal_the_trained_ones(tmp_path, name, outputs):
    pytest.importorskip("onnxscript", reason="`make train-env`")
    from ofer_models.workshop.networks.trace import export_module

    torch.manual_seed(0)
    network, pictures = Encoders({"identity": 4, "expression": 5}), random_pictures(3, 0)
    means, contexts = predict(network, name, pictures)
    inputs = {"landmarks": ("F", 478, 6), "crop112": ("F", 3, 112, 112)}
    export_module(network.encoder(name, occlusion=len(outputs) > 1), tmp_path / "e.onnx", inputs, outputs)
    landmarks, crop = pictures.landmarks.astype(np.float32), crop_input(torch.from_numpy(pictures.crop)).numpy()
    found = OnnxStage(tmp_path / "e.onnx")(landmarks=landmarks, crop112=crop)
    assert list(found) == outputs and means.shape == (3, {"identity": 4, "expression": 5}[name])
    np.testing.assert_allclose(found["context"], contexts, atol=1e-4)


def test_the_denoiser_learns_from_its_context():
    """Coefficients that equal the context: the noise is then known better than with somebody else's context."""
    rng = np.random.default_rng(0)
    truth, unseen = (rng.normal(size=(count, 8)).astype(np.float32) for count in (800, 200))
    network, history = train_denoiser(
        truth, truth, unseen, unseen, Schedule(180, 32, 5e-3, average=0.9), name="idgen", seed=0,
        log=quiet,
    )  # fmt: skip
    assert len(history.rows) == 10 and history.rows[-1][2] < 0.8 * history.rows[0][2] < 1
    process, x0, t = ForwardProcess(), torch.from_numpy(unseen), torch.full((len(unseen),), 300)
    noise = torch.randn(x0.shape, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        noisy = process.add_noise(x0, noise, t)
        right, wrong = (((network(noisy, t, given) - noise) ** 2).mean().item() for given in (x0, x0.roll(1, 0)))
    assert right < 0.9 * wrong


@pytest.mark.parametrize(("solver", "steps"), [("ddim", 8), ("dpmpp_2m", 6)])
def test_training_draws_as_the_engine_does(tmp_path, solver, steps):
    torch.manual_seed(1)
    network = make_denoiser(53, 32).eval()
    with torch.no_grad():  # fresh weights would return nearly nothing
        for parameter in network.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    files = export_sampler(network, tmp_path, "expgen")
    sampler = Sampler(OnnxStage(files["cond"]), OnnxStage(files["step"]))
    table = solver_table(solver, steps, "log_snr")
    contexts = torch.randn(3, 32)
    drawn = draw(network, contexts, 4, table, torch.Generator().manual_seed(5)).numpy()
    noise = torch.randn((3, 4, 53), generator=torch.Generator().manual_seed(5)).numpy()
    expected = sampler.sample(contexts.numpy(), noise, table)
    assert np.abs(drawn - expected).max() < 2e-3 * np.abs(expected).max()
    assert np.abs(drawn - noise).max() > 0.1


@pytest.mark.parametrize(
    "method", [pytest.param(m, marks=pytest.mark.long) if m in ("listmle", "error") else m for m in METHODS]
)
def test_ranking_picks_better_than_chance(method):
    """The context is the truth, so a ranker can know which candidate is near; candidates come from noise."""
    rng = np.random.default_rng(0)
    truth, unseen = (rng.normal(size=(count, SHAPES)).astype(np.float32) for count in (160, 50))
    contexts, held_out = (np.tile(values, (1, 3)) for values in (truth, unseen))
    torch.manual_seed(0)
    idgen, lines = make_denoiser(SHAPES, contexts.shape[1]).eval(), []
    network, history = train_rank(
        SMALL, idgen, contexts, truth, held_out, unseen, Schedule(120, 64, 3e-3, average=0.9),
        candidates=10, faces=160, method=method, seed=0, log=lines.append,
    )  # fmt: skip
    words = lines[0].replace(",", "").split()
    average, best = float(words[words.index("average") + 1]), float(words[words.index("best") + 1])
    assert best < average
    chosen = history.rows[-1][2]
    assert average - chosen > 0.3 * (average - best)
    betas = torch.from_numpy(rng.normal(size=(1, 5, SHAPES)).astype(np.float32))
    scores = network(betas, torch.from_numpy(held_out[:1]))
    shuffled = network(betas[:, [3, 1, 4, 0, 2]], torch.from_numpy(held_out[:1]))
    torch.testing.assert_close(shuffled, scores[:, [3, 1, 4, 0, 2]], atol=1e-4, rtol=1e-4)
