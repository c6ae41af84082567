"""Where eyes look: irises on the head, and a direction."""

from __future__ import annotations

from copy import copy

import numpy as np

from ofer_models.head.gaze import Gaze
from ofer_models.head.landmark_sets import IRISES, N_MEDIAPIPE, tracked_landmarks
from ofer_models.head.model import LEFT_EYE, RIGHT_EYE, HeadModel


def test_irises_lie_before_the_joints_that_the_eyes_turn_about(open_head: HeadModel):
    embedding, points = tracked_landmarks(open_head)
    assert points[-2:].tolist() == list(IRISES) and len(points) == N_MEDIAPIPE + 2
    corners = open_head.v_template[open_head.faces[embedding.triangle[-2:]]]
    places = np.einsum("lk,lkc->lc", embedding.bary[-2:], corners)
    joints = (open_head.joint_regressor @ open_head.v_template)[[RIGHT_EYE, LEFT_EYE]]
    np.testing.assert_allclose(places[:, :2], joints[:, :2], atol=1e-5)
    assert ((places - joints)[:, 2] > 0.012).all(), "on the eyeball's front"
    assert (embedding.bary[-2:] > -1e-5).all()


def test_a_head_whose_expressions_do_not_turn_its_eyes_has_no_irises(open_head: HeadModel):
    head = copy(open_head)
    head.expression_names = [f"expression_{i}" for i in range(head.n_expression)]
    assert not np.isin(tracked_landmarks(head)[1], IRISES).any() and Gaze.of(head) is None
    head.embeddings = {}
    assert Gaze.of(head) is None


def test_a_gaze_is_where_both_eyes_look(open_head: HeadModel):
    gaze = Gaze.of(open_head)

    def looks(**units: float) -> np.ndarray:
        return gaze(np.array([units.get(name, 0) for name in open_head.expression_names]))

    np.testing.assert_allclose(looks(), [0, 0, 1], atol=1e-6)
    np.testing.assert_allclose(looks(browInnerUp=1, eyeBlinkLeft=1), [0, 0, 1], atol=1e-3)
    left = looks(eyeLookOutLeft=1, eyeLookInRight=1)
    assert 15 < np.degrees(np.arctan2(left[0], left[2])) < 25 and abs(left[1]) < 0.01
    right = looks(eyeLookInLeft=1, eyeLookOutRight=1)
    np.testing.assert_allclose(right * [-1, 1, 1], left, atol=0.02)
    assert looks(eyeLookUpLeft=1, eyeLookUpRight=1)[1] > 0.1 > -0.1 > looks(eyeLookDownLeft=1, eyeLookDownRight=1)[1]
    crossed = looks(eyeLookInLeft=1, eyeLookInRight=1)
    assert abs(crossed[0]) < 0.02, "eyes that cross have no side in common"
