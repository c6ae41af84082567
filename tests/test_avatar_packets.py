"""Avatars at the far end: packets read back by receivers written from the protocols' descriptions."""

from __future__ import annotations

import struct

import numpy as np
import pytest

from ofer_models.avatar import live_link
from ofer_models.avatar.performance import FACING, Performance, eye_angles, head_angles, performance
from ofer_models.avatar.performer import PATIENCE, Performer, SeenFace
from ofer_models.avatar.weight_filter import WeightFilter
from ofer_models.head.arkit import ARKIT_NAMES
from ofer_models.head.model import rotation_matrices

pytest.importorskip("pythonosc", reason="python-osc is of the extra `avatar`")
from pythonosc.osc_bundle import OscBundle

from ofer_models.avatar import vmc


def weight(**values: float) -> np.ndarray:
    return np.array([values.get(name, 0.0) for name in ARKIT_NAMES], np.float32)


def acted(weights: np.ndarray, rotation: np.ndarray | None = None, stamp: float = 0.0) -> Performance:
    rotation = np.eye(3) if rotation is None else rotation
    return Performance(stamp, weights, np.full(52, 0.25, np.float32), rotation, np.zeros(3))


def received(packet: bytes) -> list[tuple[str, list]]:
    return [(message.address, list(message.params)) for message in OscBundle(packet)]


def test_vmc_tells_every_weight_before_apply_and_the_head_in_unitys_axes():
    turned = rotation_matrices(np.array([0.0, np.radians(30), 0.0]))  # about y up: to the person's left
    messages = received(vmc.packet(acted(weight(jawOpen=0.5, eyeBlinkLeft=1.0), turned), 2.5))
    addresses = [address for address, _ in messages]
    assert messages[0] == ("/VMC/Ext/OK", [1, 3, 0, 1])
    assert messages[1] == ("/VMC/Ext/T", [2.5])
    assert addresses.count("/VMC/Ext/Blend/Apply") == 1
    values = [index for index, address in enumerate(addresses) if address == "/VMC/Ext/Blend/Val"]
    assert max(values) < addresses.index("/VMC/Ext/Blend/Apply")
    blends = {params[0]: params[1] for address, params in messages if address == "/VMC/Ext/Blend/Val"}
    assert len(blends) == 52 + len(vmc.VRM_PRESETS)
    assert blends["JawOpen"] == 0.5 and blends["aa"] == 0.5
    assert blends["EyeBlinkLeft"] == 1 and blends["blinkLeft"] == 1 and blends["blink"] == 0
    bones = {params[0]: params[1:] for address, params in messages if address == "/VMC/Ext/Bone/Pos"}
    # Unity is left-handed: a turn to the avatar's own left is negative about y.
    assert bones["Head"] == pytest.approx([0, 0, 0, 0, -np.sin(np.radians(15)), 0, np.cos(np.radians(15))], abs=1e-6)
    doubts = {params[0]: params[1] for address, params in messages if address == vmc.UNCERTAINTY}
    assert len(doubts) == 52 and doubts["JawOpen"] == 0.25


def test_a_wink_closes_one_lid_and_a_blink_both_once():
    both = vmc.presets(dict(zip(ARKIT_NAMES, weight(eyeBlinkLeft=0.8, eyeBlinkRight=0.6).tolist(), strict=True)))
    assert both["blink"] == pytest.approx(0.6)
    assert both["blinkLeft"] == pytest.approx(0.2) and both["blinkRight"] == pytest.approx(0, abs=1e-6)


def test_unity_quaternions_turn_points_as_the_rotation_does():
    rng = np.random.default_rng(0)
    for vector in [*rng.normal(size=(20, 3)), np.array([0, np.pi, 0]), np.array([np.pi, 0, 0])]:
        rotation = rotation_matrices(np.asarray(vector, float))
        x, y, z, w = vmc.unity_quaternion(rotation)
        square = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
        matrix = np.eye(3) + 2 * w * square + 2 * square @ square
        mirror = np.diag([-1.0, 1, 1])
        np.testing.assert_allclose(matrix, mirror @ rotation @ mirror, atol=1e-6)


def test_live_link_packets_byte_by_byte():
    weights = np.linspace(0, 1, 52, dtype=np.float32)
    turned = rotation_matrices(np.array([0.0, 0.3, 0.0]))
    data = live_link.packet(acted(weights, turned, stamp=86400 * 3 + 10.51), "f1", "OFER-1")
    assert data[0] == 6
    length = struct.unpack(">i", data[1:5])[0]
    assert length == 6 and data[5:11] == b"OFER-1"
    assert struct.unpack(">i", data[11:15])[0] == 2 and data[15:17] == b"f1"
    frame, part, numerator, denominator = struct.unpack(">ifii", data[17:33])
    assert (frame, numerator, denominator) == (630, 60, 1) and part == pytest.approx(0.6, abs=1e-3)
    assert data[33] == 61 and len(data) == 34 + 4 * 61
    values = struct.unpack(">61f", data[34:])
    np.testing.assert_allclose(values[:52], weights)
    assert values[52:55] == pytest.approx([0.3, 0, 0], abs=1e-6)
    assert ARKIT_NAMES[0] == "eyeBlinkLeft" and ARKIT_NAMES[17] == "jawOpen" and ARKIT_NAMES[51] == "tongueOut"


@pytest.mark.parametrize("stamp, frame", [
    (0.0, 0), (86399.99, 86399 * 60 + 59), (86400.0, 0), (np.nextafter(86400.0, 0), 86400 * 60 - 1), (-1e-20, 0),
    (-0.5, 86400 * 60 - 30), (np.nextafter(1 / 60, 0), 0), (1.7e9 + 86400 * 7, None),
])  # fmt: skip
def test_live_links_time_code_stays_within_a_day_and_its_part_below_one(stamp, frame):
    found, part, rate, _ = struct.unpack(">ifii", live_link.packet(acted(weight(), stamp=stamp), "f1", "d")[12:28])
    assert 0 <= found < 86400 * rate and 0 <= part < 1
    assert frame is None or found == frame


def test_live_link_sends_names_of_any_script_with_their_length_in_bytes():
    data = live_link.packet(acted(weight()), "小さな顔🙂", "d")
    length = struct.unpack(">i", data[6:10])[0]
    assert length == len("小さな顔🙂".encode()) and data[10 : 10 + length].decode() == "小さな顔🙂"
    assert data[10 + length + 16] == 61


@pytest.mark.parametrize("name", ["", "x" * 257, "\ud800"])
def test_live_link_refuses_names_that_the_engine_would_not_take(name):
    with pytest.raises(ValueError, match="1 to 256 bytes|surrogates"):
        live_link.packet(acted(weight()), name, "device")


def test_angles_of_the_head_by_their_signs():
    assert head_angles(rotation_matrices(np.array([0, 0.4, 0]))) == pytest.approx((0.4, 0, 0), abs=1e-6)
    up = rotation_matrices(np.array([-0.2, 0, 0]))  # the face's z axis rises
    assert (up @ [0, 0, 1])[1] > 0
    assert head_angles(up) == pytest.approx((0, 0.2, 0), abs=1e-6)
    left = rotation_matrices(np.array([0, 0, -0.1]))  # the crown goes to the person's left
    assert (left @ [0, 1, 0])[0] > 0
    assert head_angles(left) == pytest.approx((0, 0, 0.1), abs=1e-6)


def test_eyes_look_where_the_weights_say():
    angles = eye_angles(weight(eyeLookOutLeft=1.0, eyeLookInRight=1.0, eyeLookUpLeft=0.5))
    assert angles[0].tolist() == [30, 12.5] and angles[1].tolist() == [30, 0]


def to_weights(expression: np.ndarray, jaw: np.ndarray) -> tuple[np.ndarray, float]:
    return weight(jawOpen=float(jaw[0]), mouthPucker=float(expression[0])), 0.0


def drawn(which: str) -> Performance:
    expressions, jaws = np.array([[0.0], [0.5], [1.0]]), np.array([[0.0, 0, 0], [0.2, 0, 0], [0.4, 0, 0]])
    return performance(
        to_weights, expressions, jaws, np.array([0.5, 0.25, 0.25]), 2, FACING, np.array([0, 0, 1.0]), 7.0, which
    )


def test_the_far_end_may_ask_for_one_hypothesis_or_their_mean():
    pucker = ARKIT_NAMES.index("mouthPucker")
    assert drawn("selected").weights[pucker] == 1
    assert drawn("1").weights[pucker] == 0.5
    assert drawn("mean").weights[pucker] == pytest.approx(0.375)
    assert drawn("0").uncertainty[pucker] == pytest.approx(np.std([0, 0.5, 1]))
    np.testing.assert_allclose(drawn("0").rotation, np.eye(3))  # it looks into the camera
    np.testing.assert_allclose(drawn("0").translation, [0, 0, -1])
    with pytest.raises(ValueError, match="the face has 3: 0 to 2"):
        drawn("3")
    with pytest.raises(ValueError, match="neither"):
        drawn("best")


@pytest.mark.parametrize("changed, said", [
    ({"scores": np.zeros(3)}, "no weights"), ({"scores": np.array([1.0, -1.0, 1.0])}, "no weights"),
    ({"scores": np.ones(2)}, "2 scores"), ({"selected": 3}, "row 3 is selected"), ({"selected": -1}, "row -1"),
    ({"jaws": np.zeros((1, 3))}, "1 jaws"), ({"expressions": np.zeros((0, 1))}, "0 expressions"),
    ({"expressions": np.array([[0.0], [np.nan], [0.0]])}, "no numbers"),
    ({"jaws": np.full((3, 3), np.inf)}, "no numbers"), ({"rotation": np.full((3, 3), np.nan)}, "no numbers"),
    ({"scores": np.array([1.0, np.nan, 0.0])}, "no numbers"),
])  # fmt: skip
def test_a_face_that_cannot_be_is_one_line_and_the_avatar_goes_on(changed, said):
    def seen(**other: object) -> SeenFace:
        good = {"expressions": np.full((3, 1), 0.5), "jaws": np.zeros((3, 3)), "scores": np.ones(3), "selected": 1,
                "rotation": FACING, "translation": np.zeros(3)}  # fmt: skip
        return SeenFace("f1", 1.0, **good | other)

    performer = Performer(to_weights)
    performer([seen()], 0.0)
    with pytest.raises(ValueError, match=said) as told:
        performer([seen(**changed)], 0.1)
    assert "\n" not in str(told.value)
    assert performer([seen()], 0.2).weights[ARKIT_NAMES.index("mouthPucker")] == 0.5


def test_a_face_performs_once_its_head_is_known_or_has_had_its_time():
    def performs(performer: Performer, stamp: float, name: str = "f1", known: bool = False) -> bool:
        row = np.zeros((1, 1)), np.zeros((1, 3)), np.ones(1), 0, FACING, np.zeros(3)
        return performer([SeenFace(name, 1.0, *row, head_known=known)], stamp) is not None

    one = Performer(to_weights)
    assert [performs(one, 10), performs(one, 10.3, known=True), performs(one, 10.4)] == [False, True, True]
    assert not performs(one, 10.5, "f2"), "another face"
    assert not performs(one, 10.5 + 0.9 * PATIENCE, "f2")
    assert performs(one, 10.5 + PATIENCE, "f2"), "whatever head it has by then"
    back = Performer(to_weights)
    assert [performs(back, 10), performs(back, 5)] == [False, True], "a clock that was set back"
    assert performs(Performer(to_weights, patience=0), 3.0)


def test_a_face_begins_with_the_mean_of_what_was_seen_while_it_waited():
    """An eye that trembles by 0.1, from the first frame that is sent on."""
    rng, place = np.random.default_rng(3), ARKIT_NAMES.index("eyeLookInLeft")
    first, deviations = [], []
    for _ in range(20):
        performer, sent = Performer(lambda expression, jaw: (weight(eyeLookInLeft=expression[0]), 0.0)), []
        for frame in range(110):
            row = rng.normal(0.5, 0.1, (1, 1)), np.zeros((1, 3)), np.ones(1), 0, FACING, np.zeros(3)
            acting = performer([SeenFace("f1", 1.0, *row, head_known=frame >= 15)], frame / 30)
            sent += [acting.weights[place]] if acting else []
        first.append(abs(sent[0] - 0.5))
        deviations.append(np.std(sent))
    assert np.mean(first) <= 0.04 and np.median(deviations) <= 0.02


def test_a_still_face_is_still_and_a_blink_is_seen():
    rng, rate = np.random.default_rng(1), 30.0
    smooth, steady = WeightFilter(), []
    for frame in range(300):
        steady.append(smooth(0.3 + rng.normal(0, 0.04, 52), frame / rate))
    assert np.std(steady[60:], axis=0).max() <= 0.02
    for phase in np.linspace(0, 1, 9):  # 120 ms at 30 Hz, wherever the frames fall
        smooth, peak, given = WeightFilter(), 0.0, 0.0
        for frame in range(60):
            at = (frame + phase) / rate
            blink = max(0.0, 1 - abs(at - 1.0) / 0.06)
            peak, given = max(peak, smooth(np.array([blink]), frame / rate)[0]), max(given, blink)
        assert peak >= 0.8 * given


def settled(signal: np.ndarray, rate: float = 30.0, slow: bool = False) -> np.ndarray:
    """What the filter makes of a signal (N, D), without its first two seconds."""
    smooth = WeightFilter(np.full(signal.shape[1], slow))
    return np.array([smooth(row, frame / rate) for frame, row in enumerate(signal)])[int(2 * rate) :]


def test_weights_that_tremble_more_than_others_are_averaged_longer_and_without_a_bias():
    rng = np.random.default_rng(2)
    noise = settled(0.5 + rng.normal(0, 0.1, (300, 52)))
    assert np.std(noise, axis=0).max() <= 0.04 and abs(noise.mean() - 0.5) < 0.01
    outliers = settled(0.15 + 0.85 * (rng.random((300, 52)) < 0.15))  # read as the other way now and then
    assert np.std(outliers, axis=0).mean() <= 0.03


def test_what_jumps_and_comes_back_after_some_frames_is_noise_of_gaze_and_brows_alone():
    """Read as elsewhere for three frames, by 0.3, again and again, as an eye that looks past the camera is."""
    rng, jumps = np.random.default_rng(4), np.full((300, 52), 0.4)
    for column in jumps.T:
        for first in np.flatnonzero(rng.random(300) < 0.1):
            column[first : first + 3] = 0.7
    assert np.std(settled(jumps, slow=True), axis=0).mean() <= 0.02
    assert np.std(settled(jumps), axis=0).mean() >= 0.05, "lids and lips do that"


@pytest.mark.parametrize("slow, size, noise, within", [(False, 0.1, 0.01, 0.35), (True, 0.2, 0.01, 0.5),
                                                       (True, 0.5, 0.03, 0.6), (True, 0.5, 0.1, 3.0)])  # fmt: skip
def test_a_change_that_lasts_arrives_however_much_a_weight_trembles(slow, size, noise, within):
    """To three quarters of it, within so many seconds."""
    given = 0.2 + np.random.default_rng(1).normal(0, noise, (240, 52))
    given[120:] += size
    arrived = settled(given, slow=slow)[60:] >= 0.2 + 0.75 * size
    assert arrived.any(axis=0).all() and arrived.argmax(axis=0).max() / 30 <= within


@pytest.mark.parametrize("rate, hertz", [(30, 2), (30, 4), (30, 6), (60, 8), (15, 4), (10, 4)])
def test_movement_is_not_taken_for_noise(rate, hertz):
    moved = 0.3 + 0.3 * np.sin(0.3 + 2 * np.pi * hertz * np.arange(10 * rate) / rate)[:, None]
    assert settled(moved, rate).std() >= 0.8 * moved.std()


def test_a_blink_is_seen_among_others_and_in_noise():
    rng = np.random.default_rng(3)
    for phase in np.linspace(0, 1, 9):
        stamps = (np.arange(200) + phase) / 30
        lids = np.max([np.maximum(0, 1 - abs(stamps - at) / 0.06) for at in (1, 1.4, 2, 3, 3.2, 5)], axis=0)
        given = (lids + rng.normal(0, 0.03, 200))[:, None]
        last = slice(84, 96)  # frames after the two seconds that fall on the sixth
        assert settled(given)[last].max() >= 0.8 * given[60:][last].max()


def test_the_filter_begins_anew_after_a_gap_and_on_stamps_that_do_not_advance():
    smooth = WeightFilter()
    smooth(np.zeros(1), 0.0)
    assert smooth(np.array([0.05]), 0.033)[0] < 0.05
    assert smooth(np.array([0.05]), 5.0)[0] == 0.05
    assert smooth(np.array([0.02]), 5.0)[0] == 0.02
