"""`ofer evaluate --real`: measures of faces, pairs with drawn occluders, and the command on a photograph."""

from __future__ import annotations

import json

import cv2
import numpy as np
import pytest
from typer.testing import CliRunner

from ofer_models.workshop.errors import DataError, EvaluationError
from ofer_models.workshop.measure.real.paired import draw_occluder
from ofer_models.workshop.measure.real.protocol import common_variance
from ofer_models.workshop.measure.real.readings import find_photographs
from ofer_models.workshop.pictures.measures import MEASURES, between_eyes, measures, point_errors, slope
from ofer_models.workshop.pictures.occluders import GROUPS


@pytest.fixture(scope="module")
def neutral(open_head) -> np.ndarray:
    """The mean head's 68 points (68, 2) as a picture shows them: y down, 1000 px a metre."""
    return 1000 * open_head.landmarks(open_head.v_template, "landmarks68")[:, :2] * [1, -1]


def made(open_head, **units: float) -> np.ndarray:
    face, jaw = np.zeros(open_head.n_expression), np.zeros(3)
    for name, value in units.items():
        if name == "jawOpen":
            jaw[0] = value * open_head.jaw_open_angle
        else:
            face[open_head.expression_names.index(name)] = value
    vertices = open_head.decode(np.zeros(open_head.n_shape), face, jaw)
    return 1000 * open_head.landmarks(vertices, "landmarks68")[:, :2] * [1, -1]


@pytest.mark.parametrize(
    "measure, units, sign",
    [("mouth opening", {"jawOpen": 0.5}, 1), ("mouth width", {"mouthPucker": 0.8}, -1),
     ("corner lift", {"mouthSmileLeft": 0.8, "mouthSmileRight": 0.8}, 1),
     ("eye aperture", {"eyeBlinkLeft": 0.8, "eyeBlinkRight": 0.8}, -1), ("wink", {"eyeBlinkRight": 0.9}, 1),
     ("brow height", {"browOuterUpLeft": 0.8, "browOuterUpRight": 0.8, "browInnerUp": 0.8}, 1),
     ("inner brow", {"browInnerUp": 0.9}, 1), ("outer brow", {"browOuterUpLeft": 0.9, "browOuterUpRight": 0.9}, 1),
     ("brow asymmetry", {"browOuterUpLeft": 0.9}, 1)],
)  # fmt: skip
def test_each_measure_follows_what_it_is_named_after(open_head, neutral, measure, units, sign):
    change = measures(made(open_head, **units))[measure] - measures(neutral)[measure]
    assert sign * change > 0.03


def test_measures_do_not_see_place_size_and_tilt(neutral):
    turn = 1.7 * np.array([[np.cos(0.4), -np.sin(0.4)], [np.sin(0.4), np.cos(0.4)]])
    before, after = measures(neutral), measures(neutral @ turn.T + [30, 90])
    assert set(before) == set(MEASURES)
    for name in MEASURES:
        assert after[name] == pytest.approx(before[name], abs=1e-9)
    assert between_eyes(neutral @ turn.T) == pytest.approx(1.7 * between_eyes(neutral))
    assert point_errors(neutral + [0, between_eyes(neutral) / 10], neutral) == pytest.approx(np.full(68, 0.1))


def test_slope_and_correlation():
    reference = np.array([0.0, 1, 2, 5])
    assert slope(0.5 * reference + 3, reference) == pytest.approx((0.5, 1.0))
    assert slope(np.full(4, 2.0), reference)[0] == pytest.approx(0)
    assert np.isnan(slope(reference[:2], reference[:2])).all()


def test_common_variance_tells_the_same_hypotheses_from_own_ones():
    rng = np.random.default_rng(0)
    same = rng.normal(size=(15, 20, 3))
    assert common_variance([same + shift for shift in range(8)]) == pytest.approx(1)
    assert common_variance([rng.normal(size=(15, 20, 3)) for _ in range(8)]) == pytest.approx(1 / 8, abs=0.05)


@pytest.mark.parametrize("group", GROUPS)
def test_an_occluder_covers_what_it_says_and_nothing_else(group):
    from skimage.data import astronaut

    from ofer_models.perception.detector import FaceDetector
    from ofer_models.perception.landmarks import FaceLandmarker, roi_from_keypoints

    rgb = astronaut()
    face = FaceDetector().detect(rgb)[0]
    points = FaceLandmarker().locate(rgb, roi_from_keypoints(face.box, face.keypoints)).points
    drawn, alpha = draw_occluder(rgb, points, group, np.random.default_rng(5))
    assert drawn.shape == rgb.shape and drawn.dtype == np.uint8 and alpha.shape == rgb.shape[:2]
    changed = np.abs(drawn.astype(int) - rgb).max(-1)
    assert changed[alpha == 0].max() <= 1 and (alpha > 0.5).sum() > 100
    inside = alpha[int(points[:, 1].min()) : int(points[:, 1].max()), int(points[:, 0].min()) : int(points[:, 0].max())]
    assert (inside > 0.5).any()


def test_annotations_are_read_and_refused(tmp_path):
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((20, 20, 3), np.uint8))
    notes = tmp_path / "points.json"
    notes.write_text(json.dumps({"a.png": [{"points68": np.zeros((68, 2)).tolist()}]}))
    (photograph,) = find_photographs([tmp_path])
    assert photograph.path.name == "a.png" and photograph.annotated[0].shape == (68, 2)
    for wrong in ({"a.png": [{"points68": [[1, 2]]}]}, {"a.png": [{}]}, ["a.png"]):
        notes.write_text(json.dumps(wrong))
        with pytest.raises(DataError, match=r"points\.json"):
            find_photographs([tmp_path])
    with pytest.raises(EvaluationError, match="--real"):
        find_photographs([tmp_path / "nothing"])
    (tmp_path / "a.png").write_bytes(b"no picture")
    with pytest.raises(EvaluationError, match=r"a\.png: not a picture"):
        photograph.read()


def test_the_command_measures_a_photograph(tmp_path):
    from skimage.data import astronaut

    from ofer_models.cli.main import app

    photographs = tmp_path / "photographs"
    photographs.mkdir()
    for number, shift in enumerate((0, 5, 11)):
        picture = np.roll(astronaut(), shift, axis=1)[:260, 80:380]
        cv2.imwrite(str(photographs / f"{number}.png"), picture[..., ::-1])
    result = CliRunner().invoke(
        app, ["evaluate", "--real", str(photographs), "--report", str(tmp_path / "r"), "--json", str(tmp_path / "f")]
    )
    assert result.exit_code == 0, result.output
    (figures,) = json.loads((tmp_path / "f").read_text()).values()
    assert figures["faces"] == 3 and figures["found"] == 1
    assert figures["pair_pairs"] >= 5 and figures["pair_spread_ratio"] > 1
    assert "mouth opening" in (tmp_path / "r" / "photographs.md").read_text()
    assert (tmp_path / "r" / "photographs.png").stat().st_size > 1000
