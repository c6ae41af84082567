"""Hypotheses and heads moved to landmarks: truth is found, what is hidden is left to the sampler, noise is honest."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from ofer_models.head.gaze import Gaze
from ofer_models.head.landmark_sets import IRISES, N_MEDIAPIPE, tracked_landmarks
from ofer_models.head.model import HeadModel, Identity
from ofer_models.perception.head_pose import HeadPose, estimate_head_pose
from ofer_models.perception.intrinsics import Intrinsics, project
from ofer_models.tracking.evidence import LandmarkEvidence
from ofer_models.tracking.identity_evidence import IdentityEvidence
from ofer_models.tracking.identity_state import View
from ofer_models.tracking.landmark_system import COMMON, SHAPES, Poses
from ofer_models.tracking.point_weights import WeighedPoints, fewer_points, parts_of, point_weights
from ofer_models.tracking.reprojection import SeenLandmarks
from ofer_models.tracking.spread import REGIONS

K = np.array([[600.0, 0, 320], [0, 600, 240], [0, 0, 1]])
UPRIGHT = np.diag([1.0, -1, -1])
PLACE = np.array([0.02, 0.01, 0.6])
HYPOTHESES = 15
MOUTH = np.isin(np.arange(N_MEDIAPIPE), REGIONS["mouth"])
ALL = np.ones(N_MEDIAPIPE)


@pytest.fixture(scope="module")
def evidence(open_bundle) -> LandmarkEvidence:
    return LandmarkEvidence.of(open_bundle)


def coefficients(head: HeadModel, **units: float) -> np.ndarray:
    """(E + 3,) with these units; jawOpen in 0..1."""
    values = np.zeros(head.n_expression + 3, np.float32)
    for name, value in units.items():
        if name == "jawOpen":
            values[head.n_expression] = value * head.jaw_open_angle
        else:
            values[head.expression_names.index(name)] = value
    return values


def tracked(head: HeadModel, vertices: np.ndarray) -> np.ndarray:
    """(L, 3) the landmarks that are compared with pictures, the irises among them."""
    embedding = tracked_landmarks(head)[0]
    return np.einsum("lk,lkc->lc", embedding.bary, vertices[head.faces[embedding.triangle]])


def seen(head: HeadModel, betas: np.ndarray, face: np.ndarray) -> SeenLandmarks:
    """Landmarks as a camera straight before the face sees them without error."""
    vertices = head.decode(betas, face[:-3], face[-3:])
    camera = tracked(head, vertices) @ UPRIGHT.T + PLACE
    pixels = camera @ K.T
    points = pixels[:, :2] / pixels[:, 2:]
    eyes = np.linalg.norm(points[[362, 263]].mean(0) - points[[33, 133]].mean(0))
    return SeenLandmarks(points, K, float(eyes))


def alone(
    evidence: LandmarkEvidence, what: SeenLandmarks, visible: np.ndarray | None, identity: Identity,
    drawn: np.ndarray, noise: np.ndarray, pose: HeadPose,
) -> tuple[np.ndarray, HeadPose]:  # fmt: skip
    """Hypotheses (H, E + 3) of one face, moved, and their mean's pose."""
    resting = evidence.system.decoder.at_rest([identity])
    found, (pose,) = evidence([what], [visible], resting, drawn[None], noise[None], [pose])
    return found[0], pose


def moved(evidence: LandmarkEvidence, head: HeadModel, face: np.ndarray, visible: np.ndarray | None) -> np.ndarray:
    """Hypotheses about the neutral face, moved to the landmarks of `face` on the mean head."""
    betas = np.zeros(head.n_shape, np.float32)
    rng = np.random.default_rng(0)
    half = np.abs(rng.normal(0, 0.05, (HYPOTHESES, len(face)))) * (np.arange(len(face)) < head.n_expression)
    what = seen(head, betas, face)
    identity = head.identity(betas)
    pose = estimate_head_pose(what.points, tracked(head, head.decode(betas, half.mean(0)[:-3])), K)
    noise = rng.standard_normal((HYPOTHESES, len(face)))
    return alone(evidence, what, visible, identity, half.astype(np.float32), noise, pose)[0]


@pytest.mark.parametrize(
    "units",
    [{"jawOpen": 0.6}, {"eyeBlinkLeft": 0.8}, {"mouthSmileLeft": 0.7, "mouthSmileRight": 0.7},
     {"browOuterUpLeft": 0.8, "browOuterUpRight": 0.8, "browInnerUp": 0.7}],
)  # fmt: skip
def test_a_movement_in_sight_comes_through(evidence, open_bundle, units):
    """At the points, where it is seen, though the context knows of none: which units make it is another question."""
    head = open_bundle.head
    face, nobody = coefficients(head, **units), np.zeros(head.n_shape, np.float32)
    found = moved(evidence, head, face, ALL)
    assert found.shape == (HYPOTHESES, len(face)) and found.dtype == np.float32
    assert found[:, :-3].min() >= 0 and found[:, :-3].max() <= 1
    still, truth, mean = (
        head.landmarks(head.decode(nobody, c[:-3], c[-3:]), "mediapipe") for c in (0 * face, face, found.mean(0))
    )
    went = truth - still
    share = (went * (mean - still)).sum() / (went**2).sum()
    assert (0.55 if "browInnerUp" in units else 0.6) < share < 1.1
    most = np.linalg.norm(went, axis=-1) > 0.5 * np.linalg.norm(went, axis=-1).max()
    assert ((mean - truth)[most] ** 2).sum() < 0.2 * (went[most] ** 2).sum()


def test_a_wink_is_on_its_side(evidence, open_bundle):
    head = open_bundle.head
    found = moved(evidence, head, coefficients(head, eyeBlinkRight=0.9), ALL).mean(0)
    left, right = (found[head.expression_names.index(f"eyeBlink{side}")] for side in ("Left", "Right"))
    assert right > left + 0.5


def test_what_hidden_points_tell_is_left_as_it_was_drawn(evidence, open_bundle):
    """An open mouth that nobody sees stays a guess; the eyes beside it do not."""
    head = open_bundle.head
    face = coefficients(head, jawOpen=0.7, eyeBlinkLeft=0.9, eyeBlinkRight=0.9)
    lower = head.landmarks(head.v_template, "mediapipe")[:, 1]
    open_to_sight = (lower > lower[4]).astype(float)  # above the tip of the nose
    both = moved(evidence, head, face, ALL), moved(evidence, head, face, open_to_sight)
    jaws = [found[:, head.n_expression] / head.jaw_open_angle for found in both]
    assert jaws[0].mean() > 0.6 and abs(jaws[1].mean()) < 0.25
    blink = head.expression_names.index("eyeBlinkLeft")
    assert both[0][:, blink].mean() > 0.6 and both[1][:, blink].mean() > 0.6
    nobody = np.zeros((HYPOTHESES, head.n_shape), np.float32)
    spread = [np.sqrt(head.landmarks(head.decode(nobody, f[:, :-3], f[:, -3:]), "mediapipe").var(0).sum(-1))[MOUTH]
              for f in both]  # fmt: skip
    assert spread[1].mean() > 1.3 * spread[0].mean()


def test_nothing_seen_leaves_the_hypotheses_where_they_are(evidence, open_bundle):
    head = open_bundle.head
    face = coefficients(head, jawOpen=0.7, mouthSmileLeft=0.5)
    blind = moved(evidence, head, face, np.zeros(N_MEDIAPIPE))
    assert np.isfinite(blind).all() and np.abs(blind.mean(0)).max() < 0.12  # as drawn, spread about their mean


def test_members_differ_as_much_as_the_points_leave_open(evidence, open_bundle):
    """With more noise than prior the scatter, not the start, is what keeps hypotheses apart: none without it."""
    head = open_bundle.head
    face, betas = coefficients(head, jawOpen=0.4), np.zeros(head.n_shape, np.float32)
    what, identity = seen(head, betas, face), head.identity(betas)
    pose = estimate_head_pose(what.points, tracked(head, head.decode(betas)), K)
    drawn = np.zeros((40, len(face)), np.float32)
    noise = np.random.default_rng(1).standard_normal(drawn.shape)
    both = (alone(evidence, what, ALL, identity, drawn, some, pose)[0] for some in (0 * noise, noise))
    apart = [np.ptp(found, axis=0).max() for found in both]
    assert apart[0] < 1e-6 and apart[1] > 0.05


def test_equal_input_gives_equal_output_and_pairs_stay_pairs(evidence, open_bundle):
    head = open_bundle.head
    face = coefficients(head, jawOpen=0.4)
    np.testing.assert_array_equal(moved(evidence, head, face, ALL), moved(evidence, head, face, ALL))


def test_a_head_comes_nearer_to_the_one_that_is_seen(evidence, open_bundle):
    """From views of a random head: its error falls, and an incumbent that already fits stays."""
    head, fit = open_bundle.head, IdentityEvidence(open_bundle.head, LandmarkEvidence.of(open_bundle, every_point=True))
    rng = np.random.default_rng(3)
    gained = []
    for _ in range(4):
        truth = rng.standard_normal(head.n_shape).astype(np.float32)
        face = coefficients(head, jawOpen=0.2)
        view = View(0.0, 1.0, np.zeros(1), seen=seen(head, truth, face), visible=ALL,
                    expression=np.zeros(head.n_expression), jaw=np.zeros(3))  # fmt: skip
        start = np.zeros(head.n_shape, np.float32)
        found, gain = fit(start, [view], np.ones(1))
        assert gain == np.inf
        front = head.masks["frontal"]
        errors = [np.linalg.norm(_centred(head.shaped(b)[front]) - _centred(head.shaped(truth)[front]), axis=-1).mean()
                  for b in (start, found)]  # fmt: skip
        gained.append(errors[1] / errors[0])
        _, again = fit(start, [view], np.ones(1), found)
        assert again < 0.5  # what fits as well is no reason to change the head
        _, better = fit(start, [view], np.ones(1), start)
        assert better > 1
    assert np.mean(gained) < 0.7


def test_each_view_counts_by_its_share_in_any_order_and_one_without_a_pose_says_nothing(open_bundle):
    head, fit = open_bundle.head, IdentityEvidence(open_bundle.head, LandmarkEvidence.of(open_bundle, every_point=True))
    rng, nobody = np.random.default_rng(3), np.zeros(head.n_shape, np.float32)
    one, other = (
        View(0.0, 1.0, np.zeros(1), seen=seen(head, rng.standard_normal(head.n_shape).astype(np.float32), face),
             visible=ALL, expression=face[:-3], jaw=face[-3:])
        for face in (coefficients(head, jawOpen=0.2), coefficients(head, jawOpen=0.6))
    )  # fmt: skip
    both, gain = fit(nobody, [one, other], np.array([0.8, 0.2]), nobody)
    turned, same = fit(nobody, [other, one], np.array([0.2, 0.8]), nobody)
    np.testing.assert_allclose(turned, both, atol=1e-4)
    assert same == pytest.approx(gain, rel=1e-3)
    alone = [fit(nobody, [view], np.ones(1))[0] for view in (one, other)]
    assert np.linalg.norm(both - alone[0]) < 0.7 * np.linalg.norm(both - alone[1])
    hopeless = replace(one, seen=replace(one.seen, points=np.full_like(one.seen.points, np.nan)))
    np.testing.assert_array_equal(fit(nobody, [one, hopeless], np.array([1.0, 0.0]))[0], alone[0])
    found, gain = fit(alone[0], [hopeless], np.ones(1), nobody)
    assert gain == 0 and found is alone[0]


def test_a_head_moves_as_far_as_its_landmarks_are_off(open_bundle):
    """Far from where it begins where the population's prior would leave much unexplained; little where the beginning
    explains points that are off by less than is usual."""
    head, fit = open_bundle.head, IdentityEvidence(open_bundle.head, LandmarkEvidence.of(open_bundle, every_point=True))
    rng, face, nobody = np.random.default_rng(3), coefficients(head, jawOpen=0.2), np.zeros(head.n_shape, np.float32)
    far, near = [], []
    for _ in range(4):
        unlike = (8 * rng.standard_normal(head.n_shape) * (np.arange(head.n_shape) < SHAPES)).astype(np.float32)
        what = seen(head, unlike, face)
        view = View(0.0, 1.0, np.zeros(1), seen=what, visible=ALL, expression=face[:-3], jaw=face[-3:])
        far.append(_apart(head, fit(nobody, [view], np.ones(1))[0], unlike) / _apart(head, nobody, unlike))
        truth = rng.standard_normal(head.n_shape).astype(np.float32)
        what = seen(head, truth, face)
        noisy = what.points + rng.normal(0, 0.012 * what.between_eyes, what.points.shape)
        near.append(_apart(head, fit(truth, [replace(view, seen=replace(what, points=noisy))], np.ones(1))[0], truth))
    assert np.mean(far) < 0.36
    assert np.mean(near) < 0.35


def _apart(head: HeadModel, betas: np.ndarray, others: np.ndarray) -> float:
    """Mean distance in mm of frontal vertices."""
    shapes = (_centred(head.shaped(each)[head.masks["frontal"]]) for each in (betas, others))
    return 1000 * float(np.linalg.norm(np.subtract(*shapes), axis=-1).mean())


def _centred(points: np.ndarray) -> np.ndarray:
    return points - points.mean(0)


def test_point_weights_leave_out_neighbours_and_keep_features():
    weights = point_weights(np.arange(N_MEDIAPIPE))
    features = np.concatenate([np.array(points) for points in REGIONS.values()])
    assert (weights[features] > 1).all() and 0 < weights[152] < 1  # the chin's outline slides as a head turns
    assert 150 < (weights > 0).sum() < 300


def test_a_camera_matrix_with_skew_counts(evidence, open_bundle):
    head, system, skewed = open_bundle.head, evidence.system, K + np.diag([90.0, 0], 1)[:3, :3]
    face, betas = coefficients(head, jawOpen=0.4), np.zeros(head.n_shape, np.float32)
    points = tracked(head, head.decode(betas, face[:-3], face[-3:])) @ UPRIGHT.T + PLACE
    what, pose = SeenLandmarks(project(points, skewed), skewed, 60.0), Poses(UPRIGHT[None], PLACE[None])
    resting = system.decoder.at_rest([head.identity(betas)])
    pictures = system.pictures([what], system.weights(what, None)[None])
    models = system.models(resting, face[None, None])
    assert np.abs(system.residuals(pictures, models, pose)).max() < 1e-2 * pictures.roots.min()
    step = np.array([[0.001, -0.002, 0.001, 0.0005, -0.001, 0.001]])
    apart = system.residuals(pictures, models, pose.moved(step))[0, 0]
    columns = slice(system.shapes, system.others)
    expected = -system.linear(pictures, resting, face[None], pose).derivatives[0, :, columns] @ step[0]
    np.testing.assert_allclose(apart, expected, atol=0.02 * np.abs(expected).max())


def test_derivatives_say_where_points_go(evidence, open_bundle):
    """By shape, pose, expression and jaw, of a face with its jaw turned."""
    head, system = open_bundle.head, evidence.system
    face, betas = coefficients(head, jawOpen=0.5, mouthSmileLeft=0.4).astype(np.float64), np.zeros(head.n_shape)
    what, pose = seen(head, betas.astype(np.float32), face.astype(np.float32)), Poses(UPRIGHT[None], PLACE[None])
    pictures = system.pictures([what], system.weights(what, None)[None])
    linear = system.linear(pictures, system.decoder.at_rest([head.identity(betas)]), face[None], pose)
    rng = np.random.default_rng(0)
    step = np.zeros(linear.derivatives.shape[-1])
    step[: system.shapes] = rng.normal(0, 0.1, system.shapes)
    step[system.shapes : system.others] = rng.normal(0, 0.002, 6)
    step[system.others :] = rng.normal(0, 0.02, len(face))
    other = betas.copy()
    other[: system.shapes] = step[: system.shapes]
    resting = system.decoder.at_rest([head.identity(other)])
    models = system.models(resting, (face + step[system.others :])[None, None])
    went = linear.off - system.residuals(pictures, models, pose.moved(step[None, system.shapes : system.others]))[0]
    expected = linear.derivatives[0] @ step
    assert np.linalg.norm(went[0] - expected) < 0.05 * np.linalg.norm(expected)


def test_what_a_part_is_off_as_a_whole_counts_less(evidence, open_bundle):
    """Whitened columns are those of the covariance that says so; where parts open counts in full."""
    head, system = open_bundle.head, evidence.system
    what = seen(head, np.zeros(head.n_shape, np.float32), coefficients(head))
    weights = system.weights(what, np.where(MOUTH, 0, ALL))  # a hidden part has none
    pictures = system.pictures([what], weights[None])
    size, roots = 2 * len(weights), np.repeat(np.sqrt(weights), 2)
    whiten = pictures.whitened(np.eye(size, dtype=np.float32)[None])[0]
    covariance = np.eye(size)
    for part in parts_of(system.numbers):
        for axis in range(2):
            together = COMMON * roots * np.repeat(part, 2) * (np.arange(size) % 2 == axis)
            covariance += np.outer(together, together)
    np.testing.assert_allclose(whiten.T @ whiten @ covariance, np.eye(size), atol=2e-3)
    np.testing.assert_allclose(whiten, whiten.T, atol=1e-6)
    eye = parts_of(system.numbers)[0]
    shift, opening = np.zeros((2, size))
    shift[1::2] = roots[1::2] * eye
    rows = np.flatnonzero(eye)
    opening[2 * rows + 1] = roots[2 * rows + 1] * np.where(np.arange(len(rows)) % 2, 1, -1)
    left, kept = (np.linalg.norm(whiten @ each) / np.linalg.norm(each) for each in (shift, opening))
    assert left < 0.25
    assert kept > 0.9


def test_parts_are_an_eye_with_its_brow_and_the_mouth():
    parts = parts_of(np.arange(N_MEDIAPIPE))
    assert [set(np.flatnonzero(part)) & {33, 70, 263, 300, 13, 4} for part in parts] == [{33, 70}, {263, 300}, {13}]


def test_fewer_points_say_what_all_say(open_bundle):
    """A third of the points, their weight in all, some of every region, and the head's whole extent."""
    head = open_bundle.head
    embedding, points = tracked_landmarks(head)
    weights = point_weights(points)
    fewer = fewer_points(head, embedding, points, weights, open_bundle.stages["expgen"].deviation[: head.n_expression])
    kept = WeighedPoints.of(embedding, points, fewer)
    assert len(kept.rows) == 146 and set(IRISES) <= set(kept.numbers.tolist()) and (weights[kept.rows] > 0).all()
    assert kept.weights.sum() == pytest.approx(weights.sum(), rel=0.05)
    for members in REGIONS.values():
        mine = np.isin(kept.numbers, members)
        assert mine.sum() >= 8 and 0.7 < kept.weights[mine].sum() / weights[np.isin(points, members)].sum() < 1.4
    places = tracked(head, head.v_template)
    assert (np.ptp(places[kept.rows], axis=0) > 0.8 * np.ptp(places[weights > 0], axis=0)).all()
    np.testing.assert_array_equal(fewer_points(head, embedding, points, fewer, np.ones(head.n_expression)), fewer)


def test_faces_are_moved_together_as_each_alone_and_one_without_a_solution_costs_no_other(evidence, open_bundle):
    head, rng = open_bundle.head, np.random.default_rng(2)
    betas = rng.normal(0, 0.5, (3, head.n_shape)).astype(np.float32)
    faces = [coefficients(head, jawOpen=0.5), coefficients(head, eyeBlinkLeft=0.8), coefficients(head)]
    whats = [seen(head, b, face) for b, face in zip(betas, faces, strict=True)]
    drawn = np.abs(rng.normal(0, 0.05, (3, HYPOTHESES, len(faces[0])))).astype(np.float32)
    drawn[..., head.n_expression :] = 0
    noise = rng.standard_normal(drawn.shape)
    poses = [HeadPose(UPRIGHT, PLACE, np.zeros(0))] * 2 + [HeadPose(UPRIGHT, np.full(3, np.nan), np.zeros(0))]
    visible = [ALL, None, ALL]
    identities = [head.identity(b) for b in betas]
    together, moved_to = evidence(whats, visible, evidence.system.decoder.at_rest(identities), drawn, noise, poses)
    for i in range(3):
        one, pose = alone(evidence, whats[i], visible[i], identities[i], drawn[i], noise[i], poses[i])
        np.testing.assert_allclose(together[i], one, atol=1e-4)
        np.testing.assert_allclose(moved_to[i].translation, pose.translation, atol=1e-5)
    np.testing.assert_array_equal(together[2], drawn[2])
    assert np.abs(together[0] - drawn[0]).max() > 0.1


@pytest.mark.parametrize("place", [[0.0, 0.0, 0.0], [0.0, 0.0, -0.6], [np.nan, 0.0, 0.6]])
def test_a_pose_that_allows_no_solution_leaves_the_hypotheses_as_drawn(evidence, open_bundle, place):
    head = open_bundle.head
    what = seen(head, np.zeros(head.n_shape, np.float32), coefficients(head, jawOpen=0.5))
    drawn = np.zeros((HYPOTHESES, head.n_expression + 3), np.float32)
    impossible = HeadPose(UPRIGHT, np.array(place), np.zeros(0))
    identity = head.identity(np.zeros(head.n_shape, np.float32))
    noise = np.random.default_rng(0).normal(size=drawn.shape)
    given, pose = alone(evidence, what, ALL, identity, drawn, noise, impossible)
    assert np.isfinite(given).all()
    assert pose is impossible or np.isfinite(pose.translation).all()


def test_the_first_hypothesis_is_the_mean_and_what_is_at_its_end_stays_there(evidence, open_bundle):
    """Without points that are seen, of drawn hypotheses whose mean is within their range."""
    head = open_bundle.head
    for units in ({"jawOpen": 0.5}, {"mouthSmileLeft": 0.7, "mouthSmileRight": 0.7}):
        found = moved(evidence, head, coefficients(head, **units), ALL)
        np.testing.assert_allclose(found[0], found[1:].mean(0), atol=0.04)
        ended = found[0, : head.n_expression] <= 0
        assert ended.any() and not found[:, : head.n_expression][:, ended].any()


@pytest.mark.parametrize("hidden", [False, True])
def test_irises_in_sight_turn_the_eyes_and_hidden_ones_leave_them(evidence, open_bundle, hidden):
    head, rng = open_bundle.head, np.random.default_rng(0)
    betas = np.zeros(head.n_shape, np.float32)
    what = seen(head, betas, coefficients(head, eyeLookOutLeft=0.8, eyeLookInRight=0.8))  # to the person's left
    drawn = np.tile(coefficients(head), (HYPOTHESES, 1))
    noise = rng.standard_normal(drawn.shape).astype(np.float32)
    visible = np.zeros(N_MEDIAPIPE) if hidden else ALL
    pose = HeadPose(UPRIGHT, PLACE, np.zeros(0))
    found, _ = alone(evidence, what, visible, head.identity(betas), drawn, noise, pose)
    side = Gaze.of(head)(found[0, :-3])[0]
    assert abs(side) < 0.02 if hidden else side > 0.2, "0.8 of both units are 0.28"


def test_what_is_seen_of_a_closed_eye_tells_nothing_of_where_it_looks(evidence, open_bundle):
    head = open_bundle.head
    landmarks = np.zeros((478, 3))
    landmarks[list(IRISES)] = 1
    rows = {"open": 20.0, "closed": 1.0}
    told = {}
    for name, height in rows.items():
        points = np.random.default_rng(0).uniform(100, 200, (478, 3))
        for upper, lower, inner, outer in ((159, 145, 133, 33), (386, 374, 362, 263)):
            points[outer], points[inner] = [100, 100, 0], [160, 100, 0]
            points[upper], points[lower] = [130, 100 - height / 2, 0], [130, 100 + height / 2, 0]
        what = SeenLandmarks.of(points, tracked_landmarks(head)[1], Intrinsics(np.diag([500.0, 500, 1]), 640, 480))
        counts = evidence.system.counts(what, ALL)
        told[name] = counts[np.isin(tracked_landmarks(head)[1][evidence.system.rows], IRISES)]
    assert (told["open"] > 0).all() and not told["closed"].any()
