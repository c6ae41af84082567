"""Facts that the shipped open head must keep, however it was built: units, names, landmarks, masks, symmetry, jaw."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import ofer_models
from ofer_models.head import HeadModel
from ofer_models.head.landmark_sets import LANDMARKS68, NOW7, landmarks_on_people, tracked_landmarks
from ofer_models.head.model import JAW, LEFT_EYE, NECK, RIGHT_EYE
from ofer_models.workshop.head.face_parts import PART_POINTS

MIRROR = np.array([-1.0, 1.0, 1.0])
ONE_SIDED = (
    "browDown", "browOuterUp", "cheekSquint", "eyeBlink", "eyeLookDown", "eyeLookIn", "eyeLookOut", "eyeLookUp",
    "eyeSquint", "eyeWide", "jaw", "mouth", "mouthDimple", "mouthFrown", "mouthLowerDown", "mouthPress", "mouthSmile",
    "mouthStretch", "mouthUpperUp", "noseSneer",
)  # fmt: skip
MIDDLE = (
    "browInnerUp", "cheekPuff", "jawForward", "mouthClose", "mouthFunnel", "mouthPucker", "mouthRollLower",
    "mouthRollUpper", "mouthShrugLower", "mouthShrugUpper",
)  # fmt: skip
# Edges of the lips from the person's right to the left, without the corners.
INNER_UPPER, INNER_LOWER = (191, 80, 81, 82, 13, 312, 311, 310, 415), (95, 88, 178, 87, 14, 317, 402, 318, 324)
OUTER_LOWER = (146, 91, 181, 84, 17, 314, 405, 321, 375)


def millimetres(vectors: np.ndarray) -> np.ndarray:
    return 1000 * np.linalg.norm(vectors, axis=-1)


def unit(head: HeadModel, name: str) -> np.ndarray:
    """Displacements (V, 3) in metres of one expression unit at full strength."""
    return head.shapedirs[..., head.n_shape + head.expression_names.index(name)]


def opened(head: HeadModel, share: float = 1.0, axis: int = 0) -> np.ndarray:
    return head.decode(np.zeros(head.n_shape), jaw=share * head.jaw_open_angle * np.eye(3)[axis])


@pytest.fixture(scope="module")
def twin(open_head) -> np.ndarray:
    """For each vertex the one closest to its mirror image."""
    template = open_head.v_template
    return np.concatenate(
        [np.linalg.norm(part[:, None] - template, axis=-1).argmin(1) for part in np.array_split(template * MIRROR, 20)]
    )


@pytest.fixture(scope="module")
def people(open_head) -> np.ndarray:
    """Sixty random neutral heads (60, V, 3)."""
    return open_head.decode(np.random.default_rng(0).standard_normal((60, open_head.n_shape)))


def test_array_names_and_sizes(open_head):
    root = Path(ofer_models.__file__).resolve().parents[1]
    with np.load(root / "engines" / "open" / "head.npz", allow_pickle=False) as file:
        contract = {
            "v_template", "shapedirs", "posedirs", "J_regressor", "kintree_table", "lbs_weights", "faces",
            "expression_names",
        }  # fmt: skip
        assert contract <= set(file.files)
        vertices, joints = file["v_template"].shape[0], file["kintree_table"].shape[1]
        assert file["posedirs"].shape == (9 * (joints - 1), 3 * vertices)
        assert file["J_regressor"].shape == (joints, vertices) and file["lbs_weights"].shape == (vertices, joints)
    assert joints == 5 and open_head.parents.tolist() == [-1, 0, 1, 1, 1]
    assert np.isfinite(open_head.shapedirs).all() and np.isfinite(open_head.posedirs).all()
    np.testing.assert_allclose(open_head.lbs_weights.sum(1), 1, atol=1e-5)
    np.testing.assert_allclose(open_head.joint_regressor.sum(1), 1, atol=1e-4)
    assert open_head.lbs_weights.min() >= 0


def test_coefficients_are_arkits(open_head):
    expected = [base + side for base in ONE_SIDED for side in ("Left", "Right")] + list(MIDDLE)
    assert sorted(open_head.expression_names) == sorted(expected) and len(expected) == 50
    assert not {"tongueOut", "jawOpen"} & set(open_head.expression_names)


def test_axes_and_size(open_head):
    template = open_head.v_template
    tip = template[template[:, 2].argmax()]
    assert abs(tip[0]) < 0.002 and -0.05 < tip[1] < 0.0
    sixty_eight = open_head.landmarks(template, "landmarks68")
    np.testing.assert_allclose(sixty_eight[30], tip, atol=0.006)  # the nose tip sticks out most
    assert (
        sixty_eight[:3, 0].max() < -0.05 and sixty_eight[14:17, 0].min() > 0.05
    )  # person's right first, x to the left
    assert sixty_eight[19, 1] > sixty_eight[37, 1] > sixty_eight[30, 1] > sixty_eight[51, 1] > sixty_eight[8, 1]
    width, height, depth = np.ptp(template, axis=0)
    assert 0.15 < width < 0.21 and 0.22 < height < 0.32 and 0.19 < depth < 0.27
    corners = template[open_head.faces]
    outward = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    assert 0.002 < (corners[:, 0] * outward).sum() / 6 < 0.008  # m^3; positive: triangles turn outwards


def test_identity_components(open_head, people):
    """Principal components by falling variance, in the units of a population of plausible adults."""
    directions = open_head.shapedirs[..., : open_head.n_shape].reshape(-1, open_head.n_shape).astype(np.float64)
    gram = directions.T @ directions
    energy = np.diag(gram)
    assert (np.diff(energy) < 0).all()
    cosines = gram / np.sqrt(np.outer(energy, energy)) - np.eye(open_head.n_shape)
    assert np.abs(cosines).max() < 1e-3
    deviation = 1000 * np.sqrt(people.var(0).sum(-1))[open_head.masks["face"]]
    assert 1.5 < deviation.mean() < 6  # mm
    eyes = [people[:, open_head.masks[name]].mean(1) for name in ("left_eye", "right_eye")]
    apart = millimetres(eyes[0] - eyes[1])
    assert 60 < apart.mean() < 67 and 1.5 < apart.std() < 5  # adults: 63 mm, deviation 3.5 mm


def test_heads_of_the_population_stay_whole(open_head, people):
    """Nothing folds over: triangles of the front keep their side."""
    frontal = open_head.faces[np.isin(open_head.faces, open_head.masks["frontal"]).all(1)]
    corners = people[:, frontal]
    normals = np.cross(corners[..., 1, :] - corners[..., 0, :], corners[..., 2, :] - corners[..., 0, :])
    assert (normals[..., 2] > 0).mean() > 0.98


@pytest.mark.parametrize("name", ["mediapipe", "landmarks68", "now7"])
def test_embeddings_lie_on_the_skin(open_head, name):
    embedding = open_head.embeddings[name]
    assert len(embedding.triangle) == {"mediapipe": 468, "landmarks68": 68, "now7": 7}[name]
    assert embedding.bary.min() >= 0
    np.testing.assert_allclose(embedding.bary.sum(1), 1, atol=1e-5)
    corners = open_head.faces[embedding.triangle]
    assert not np.isin(corners, open_head.masks["inner_mouth"]).all(1).any()
    assert not np.isin(corners, open_head.masks["eyes"]).any()


def test_smaller_sets_are_rows_of_mediapipes(open_head):
    mesh = open_head.landmarks(open_head.v_template, "mediapipe")
    for name, rows in (("landmarks68", LANDMARKS68), ("now7", NOW7)):
        np.testing.assert_allclose(open_head.landmarks(open_head.v_template, name), mesh[rows], atol=1e-6)


def test_faces_are_compared_where_mediapipe_means_its_points_on_people(open_head):
    """Lower under brows of hair and along the nose; lips as on the plain head, and all on the skin."""
    (embedding, points), plain = tracked_landmarks(open_head), open_head.landmarks(open_head.v_template, "mediapipe")
    corners = open_head.v_template[open_head.faces[embedding.triangle]]
    there = np.einsum("lc,lcx->lx", embedding.bary, corners)[:468]
    lower = 1000 * (plain - there)[:, 1]
    brows, nose, lips = (list(LANDMARKS68[rows]) for rows in (slice(17, 27), slice(27, 31), slice(48, 68)))
    assert 2 < lower[brows].mean() < 5 and 2 < lower[nose].mean() < 6
    np.testing.assert_allclose(there[lips], plain[lips], atol=1e-6)
    assert millimetres(there - plain).max() < 7 and points[:468].tolist() == list(range(468))
    sixty_eight = landmarks_on_people(open_head, open_head.v_template)
    np.testing.assert_allclose(sixty_eight, there[LANDMARKS68], atol=1e-6)


def test_landmarks_are_alike_on_both_sides(open_head):
    """The sides' pairs come from MediaPipe's own canonical face, which is exactly symmetric."""
    folder = Path(ofer_models.__file__).parent / "perception"
    canonical = np.load(folder / "canonical_face.npz")["points"][:468]
    partner = np.linalg.norm((canonical * MIRROR)[:, None] - canonical, axis=-1).argmin(1)
    assert (partner[partner] == np.arange(468)).all()
    points = open_head.landmarks(open_head.v_template, "mediapipe")
    apart = millimetres(points * MIRROR - points[partner])
    assert apart.mean() < 2 and np.quantile(apart, 0.9) < 4 and apart.max() < 14  # the far ones lie beside the ears
    seven = open_head.landmarks(open_head.v_template, "now7")
    assert millimetres(seven * MIRROR - seven[[3, 2, 1, 0, 4, 6, 5]]).max() < 2


def test_landmarks_are_where_a_face_has_them(open_head):
    p = 1000 * open_head.landmarks(open_head.v_template, "landmarks68")
    eyes = [1000 * open_head.v_template[open_head.masks[name]].mean(0) for name in ("right_eye", "left_eye")]
    for corners, centre in ((p[36:42], eyes[0]), (p[42:48], eyes[1])):
        assert np.linalg.norm(corners.mean(0)[:2] - centre[:2]) < 5
        assert 20 < np.ptp(corners[:, 0]) < 36 and 5 < np.ptp(corners[:, 1]) < 16
    assert 40 < np.linalg.norm(p[48] - p[54]) < 62  # mouth width
    assert 100 < p[27, 1] - p[8, 1] < 135  # nose bridge to chin
    assert 0 <= p[62, 1] - p[66, 1] < 4  # lips shut


def moved_points(head: HeadModel, vertices: np.ndarray) -> np.ndarray:
    """Displacements (468, 3) in mm of MediaPipe's points from the neutral mean head to vertices (V, 3)."""
    return 1000 * (head.landmarks(vertices, "mediapipe") - head.landmarks(head.v_template, "mediapipe"))


def test_each_lip_point_lies_on_its_own_lip(open_head):
    """Closed lips touch; opening the jaw parts them. Along each lip the points of one place move alike."""
    moved = np.linalg.norm(moved_points(open_head, opened(open_head)), axis=-1)
    lower, upper = (moved[list(PART_POINTS[f"{side} lip"])] for side in ("lower", "upper"))
    assert lower.min() > 19 > 11 > upper.max()  # towards the corners both follow by a part
    for above, below in zip(INNER_UPPER, INNER_LOWER, strict=True):
        assert moved[below] > moved[above] + 14
    for edge in (INNER_LOWER, OUTER_LOWER):  # from the corners to the middle more and more
        half = moved[list(edge)]
        assert (np.diff(half[:5]) > 0).all() and (np.diff(half[4:]) < 0).all()
    sixty_eight = open_head.landmarks(opened(open_head), "landmarks68") - open_head.landmarks(
        open_head.v_template, "landmarks68"
    )
    lengths = millimetres(sixty_eight)
    assert lengths[[55, 56, 57, 58, 59, 65, 66, 67]].min() > 19 and lengths[[49, 50, 51, 52, 53, 61, 62, 63]].max() < 11


def test_the_chin_follows_the_jaw_and_the_nose_does_not(open_head):
    moved = np.linalg.norm(moved_points(open_head, opened(open_head)), axis=-1)
    chin = [152, 148, 176, 377, 400, 199, 175, 200, 18, 171, 396, 208, 428, 83, 313, 201, 421]
    still = [1, 2, 4, 5, 6, 168, 33, 133, 362, 263, 10, 151, 9, 8, 107, 336, 70, 300]
    assert moved[chin].min() > 30 and moved[still].max() < 1.1


@pytest.mark.parametrize("side, other", [("Right", "Left"), ("Left", "Right")])
def test_each_lid_point_lies_on_its_own_lid(open_head, side, other):
    """A blink lowers the upper lid and leaves the lower one; no point lies on the eyeball, which stays."""
    down = -moved_points(open_head, open_head.v_template + unit(open_head, f"eyeBlink{side}"))[:, 1]
    upper, lower = (list(PART_POINTS[f"{side.lower()} {lid} lid"]) for lid in ("upper", "lower"))
    assert down[upper].min() > 1.5 and np.abs(down[lower]).max() < 1.2
    assert down[upper[2:5]].min() > 10  # shut: about the height of the eye
    elsewhere = [p for part, points in PART_POINTS.items() if part.startswith(other.lower()) for p in points]
    assert np.abs(down[elsewhere]).max() < 0.1
    corners = open_head.faces[open_head.embeddings["mediapipe"].triangle]
    assert not np.isin(corners, open_head.masks["eyes"]).any()


def test_masks(open_head):
    masks = {name: set(indices.tolist()) for name, indices in open_head.masks.items()}
    for name in ("face", "frontal", "eyes", "left_eye", "right_eye", "mouth", "brows", "lips", "lids", "ears", "neck"):
        assert masks[name], name
        assert len(masks[name]) == len(open_head.masks[name]), f"{name} repeats vertices"
    for outside in ("ears", "neck", "eyes", "inner_mouth"):
        assert not masks["frontal"] & masks[outside] and not masks["face"] & masks[outside]
    assert masks["frontal"] <= masks["face"] and masks["mouth"] <= masks["face"] and masks["brows"] <= masks["face"]
    assert masks["eyes"] == masks["left_eye"] | masks["right_eye"]
    template = open_head.v_template
    assert (template[open_head.masks["left_eye"], 0] > 0.01).all()
    assert (template[open_head.masks["right_eye"], 0] < -0.01).all()
    assert (template[open_head.masks["frontal"], 2] > -0.005).all()
    sides = (
        (template[open_head.masks["frontal"], 0] > 0.001).sum(),
        (template[open_head.masks["frontal"], 0] < -0.001).sum(),
    )
    assert abs(sides[0] - sides[1]) < 0.03 * sum(sides)


@pytest.mark.parametrize("base", ONE_SIDED)
def test_left_and_right_units_mirror_each_other(open_head, twin, base):
    left, right = unit(open_head, base + "Left"), unit(open_head, base + "Right")
    strength = millimetres(left).max()
    assert 1 < strength < 25
    apart = millimetres(left[twin] * MIRROR - right)
    assert np.quantile(apart, 0.995) < 1 and apart.mean() < 0.05  # a few vertices of the source differ


@pytest.mark.parametrize("base", [name for name in ONE_SIDED if name not in ("jaw", "mouth")])
def test_one_sided_units_stay_on_their_side(open_head, base):
    moved = millimetres(unit(open_head, base + "Left"))
    x = open_head.v_template[:, 0]
    assert (moved[x > 0] ** 2).sum() > 0.7 * (moved**2).sum()


@pytest.mark.parametrize("name", MIDDLE)
def test_middle_units_are_symmetric(open_head, twin, name):
    moved = unit(open_head, name)
    apart = millimetres(moved[twin] * MIRROR - moved)
    assert np.quantile(apart, 0.995) < 1 and apart.mean() < 0.05
    assert 1 < millimetres(moved).max() < (45 if name == "mouthClose" else 25)  # it undoes a whole jaw opening


def test_units_do_what_their_names_say(open_head):
    """Mean displacement in mm of the vertices that each unit moves most: x to the person's left, y up, z forward."""

    def most(name: str) -> np.ndarray:
        moved = 1000 * unit(open_head, name)
        size = np.linalg.norm(moved, axis=1)
        return moved[size > 0.7 * size.max()].mean(0)

    assert most("eyeBlinkLeft")[1] < -5 and most("browInnerUp")[1] > 2 and most("browDownLeft")[1] < -2
    smile = most("mouthSmileLeft")
    assert smile[0] > 3 and smile[1] > 5 and smile[2] < 0
    assert most("mouthFrownLeft")[1] < -2 and most("mouthLeft")[0] > 3 and most("mouthRight")[0] < -3
    assert most("jawLeft")[0] > 3 and most("jawForward")[2] > 3 and most("noseSneerLeft")[1] > 0.3
    ball = open_head.masks["left_eye"]
    pupil = ball[open_head.v_template[ball, 2].argmax()]
    assert unit(open_head, "eyeLookOutLeft")[pupil, 0] > 0.003 and unit(open_head, "eyeLookUpLeft")[pupil, 1] > 0.0015


def test_the_jaw_opens_the_mouth_by_the_right_amount(open_head):
    """ARKit's jawOpen = 1 is a wide, not the widest opening: lips 30 to 50 mm apart, the upper face at rest."""
    assert 0.25 < open_head.jaw_open_angle < 0.5
    at_rest = open_head.landmarks(open_head.v_template, "landmarks68")
    gaps = []
    for share in (0, 0.25, 0.5, 0.75, 1.0):
        points = open_head.landmarks(opened(open_head, share), "landmarks68")
        gaps.append(1000 * (points[62, 1] - points[66, 1]))
    assert (np.diff(gaps) > 5).all() and 28 < gaps[-1] - gaps[0] < 50
    chin = 1000 * (points[8] - at_rest[8])
    assert -35 < chin[1] < -12 and chin[2] < -10 and abs(chin[0]) < 1  # down and back
    upper = [*range(17, 28), *range(36, 48)]
    assert millimetres(points[upper] - at_rest[upper]).max() < 1
    assert millimetres(points[30] - at_rest[30]) < 2
    moved = millimetres(opened(open_head) - open_head.v_template)
    assert moved[open_head.masks["eyes"]].max() < 0.1


def test_mouth_close_shuts_the_lips_of_an_open_jaw(open_head):
    close = np.eye(open_head.n_expression)[open_head.expression_names.index("mouthClose")]
    jaw = np.array([open_head.jaw_open_angle, 0, 0])
    for vertices, low, high in (
        (open_head.decode(np.zeros(open_head.n_shape), jaw=jaw), 28, 50),
        (open_head.decode(np.zeros(open_head.n_shape), close, jaw=jaw), 0, 14),
    ):
        points = open_head.landmarks(vertices, "landmarks68")
        assert low < millimetres(points[62] - points[66]) < high


def test_the_jaw_turns_sideways(open_head):
    points = open_head.landmarks(opened(open_head, 0.2, axis=1), "landmarks68")
    aside = 1000 * (points - open_head.landmarks(open_head.v_template, "landmarks68"))
    assert aside[8, 0] > 2 and abs(aside[27, 0]) < 0.5  # about y: to the person's left


def test_joints_lie_inside_the_head(open_head):
    joints = open_head.identity(np.zeros(open_head.n_shape)).joints
    assert np.abs(joints[[0, NECK, JAW], 0]).max() < 0.003
    assert joints[0, 1] < joints[NECK, 1] < joints[JAW, 1] < joints[LEFT_EYE, 1]
    assert joints[LEFT_EYE, 0] > 0.025 and joints[RIGHT_EYE, 0] < -0.025
    np.testing.assert_allclose(joints[LEFT_EYE] * MIRROR, joints[RIGHT_EYE], atol=0.001)
    for joint, name in ((LEFT_EYE, "left_eye"), (RIGHT_EYE, "right_eye")):
        ball = open_head.v_template[open_head.masks[name]]
        radius = millimetres(ball - joints[joint])
        assert 11 < radius.mean() < 20 and radius.std() < 1.5  # a sphere about the joint
        assert (open_head.lbs_weights[open_head.masks[name], joint] == 1).all()


def test_eyes_lie_inside_the_head_and_turn_in_place(open_head, people):
    """The eyeballs do not stick out before their lids by more than a millimetre or two."""
    lids = people[:, open_head.masks["lids"]]
    for name in ("left_eye", "right_eye"):
        side = np.sign(open_head.v_template[open_head.masks[name], 0].mean())
        own = lids[:, np.sign(open_head.v_template[open_head.masks["lids"], 0]) == side]
        front = people[:, open_head.masks[name], 2].max(1)
        assert (1000 * (front - own[..., 2].max(1)) < 2.5).all()
    looking = open_head.decode(np.zeros(open_head.n_shape), eyes=np.array([0, 0.4, 0, 0, 0.4, 0]))
    centre = open_head.identity(np.zeros(open_head.n_shape)).joints[LEFT_EYE]
    ball = open_head.masks["left_eye"]
    before, after = open_head.v_template[ball] - centre, looking[ball] - centre
    np.testing.assert_allclose(np.linalg.norm(after, axis=1), np.linalg.norm(before, axis=1), atol=1e-5)
    assert after[before[:, 2].argmax(), 0] > 0.003
    skin = np.setdiff1d(np.arange(open_head.n_vertices), open_head.masks["eyes"])
    np.testing.assert_allclose(looking[skin], open_head.v_template[skin], atol=1e-6)
