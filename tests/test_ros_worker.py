"""The mailbox, the worker behind it, and what they count and report: no node, no DDS."""

from __future__ import annotations

import pytest

pytest.importorskip("ofer_msgs.msg._face", reason="source .venv/ofer_env.sh")

import threading
import time

import numpy as np
from ros_support import FakePipeline, image_message, wait_for
from sensor_msgs.msg import CameraInfo, RegionOfInterest

from ofer_models.perception.intrinsics import Intrinsics
from ofer_models.runtime.memory import resident_megabytes
from ofer_ros.base.frames import Frame
from ofer_ros.base.problem_log import ProblemLog
from ofer_ros.base.statistics import FrameStatistics, RateCap
from ofer_ros.input.calibration import Calibration, is_rectified
from ofer_ros.nodes.camera_node import camera_info
from ofer_ros.work.mailbox import Mailbox
from ofer_ros.work.relay import Relay
from ofer_ros.work.worker import FrameWorker

pytestmark = pytest.mark.ros


def test_the_mailbox_keeps_the_newest_only():
    mailbox = Mailbox()
    assert [mailbox.put(item) for item in "abc"] == [False, True, True]
    assert mailbox.take() == "c"
    assert mailbox.poll() is None
    mailbox.put("d")
    assert mailbox.wait() and mailbox.full, "it is left there"
    assert mailbox.clear() is True
    assert mailbox.clear() is False and mailbox.poll() is None


def test_take_wakes_for_an_item_and_for_close():
    mailbox = Mailbox()
    taken = []
    thread = threading.Thread(target=lambda: taken.extend([mailbox.take(), mailbox.take()]), daemon=True)
    thread.start()
    mailbox.put("a")
    wait_for(lambda: not mailbox.full)
    mailbox.close()
    thread.join(60)
    assert taken == ["a", None]
    assert mailbox.put("b") is False
    assert mailbox.take() is None


class Bench:
    """A worker with everything around it recorded."""

    def __init__(self, pipeline=None, max_age: float = 3600.0, deliver=None) -> None:
        self.pipeline = pipeline or FakePipeline()
        self.statistics = FrameStatistics()
        self.logged: list[str] = []
        self.problems = ProblemLog(self.logged.append, lambda: 100.0)  # no time passes: each is said once
        self.results: list = []
        self.mailbox: Mailbox[Frame] = Mailbox()
        self.worker = FrameWorker(
            self.mailbox,
            self.pipeline,
            Calibration(60.0, self.problems),
            deliver or (lambda result: self.results.append(result) or {"faces": 0.5}),
            self.statistics,
            self.problems,
            lambda: max_age,
        )

    def process(self, frame: Frame) -> None:
        """Both halves of a frame's work."""
        seen = self.worker.look(frame)
        if seen is not None:
            self.worker.show(seen)


def test_a_frame_goes_through_with_its_header_and_times():
    bench = Bench()
    message = image_message(stamp=3.25)
    bench.process(Frame(message))
    (result,) = bench.results
    assert result.header == message.header
    assert result.intrinsics.width == 64
    assert [face.id for face in result.faces] == ["f1"]
    assert bench.pipeline.frames[0][:2] == ((48, 64, 3), 3.25)
    assert set(bench.statistics.stages_ms()) == {
        "convert", "handover", "pipeline", "pipeline/detect", "pipeline/expression", "publish", "publish/faces",
    }  # fmt: skip
    assert bench.statistics.processed == 1
    assert 0 < bench.statistics.latency_ms()["p50"] <= bench.statistics.latency_ms()["p95"]


def test_bad_images_are_counted_and_told_once():
    bench = Bench()
    bad = image_message()
    bad.step = 1
    for _ in range(30):
        bench.process(Frame(bad))
    bench.process(Frame(image_message()))
    assert (bench.statistics.bad_images, bench.statistics.processed, len(bench.results)) == (30, 1, 1)
    assert len(bench.logged) == 1
    assert bench.logged[0].startswith("image not used: step 1 disagrees")


def test_a_pipeline_that_raises_is_told_and_reset_after_three_in_a_row():
    def behaviour(rgb):
        raise RuntimeError("no tensor for you")

    bench = Bench(FakePipeline(behaviour=behaviour))
    for _ in range(3):
        bench.process(Frame(image_message()))
    assert bench.logged == ["frame failed: RuntimeError: no tensor for you"]
    assert (bench.statistics.failures, bench.pipeline.resets) == (3, 1)
    bench.pipeline.behaviour = None
    bench.process(Frame(image_message()))
    assert bench.statistics.processed == 1


def test_a_publisher_that_raises_does_not_end_the_stream():
    def deliver(result):
        raise OSError("gone")

    bench = Bench(deliver=deliver)
    bench.process(Frame(image_message()))
    assert bench.logged == ["frame failed: OSError: gone"]


def test_frames_that_waited_too_long_are_dropped():
    bench = Bench(max_age=2000.0)  # so long that no pause of the machine matters
    bench.process(Frame(image_message(), arrived=time.monotonic() - 3000))
    bench.process(Frame(image_message(), arrived=time.monotonic() - 1000))
    assert (bench.statistics.dropped, bench.statistics.processed) == (1, 1)
    seen = bench.worker.look(Frame(image_message(), arrived=time.monotonic() - 1000))
    bench.worker._max_age = lambda: 500.0
    bench.worker.show(seen)
    assert (bench.statistics.dropped, bench.statistics.processed) == (2, 1), "looked at, and waiting for the other"


def test_stop_waits_for_the_frame_at_work_and_no_other_is_begun():
    started, go_on = threading.Event(), threading.Event()

    def behaviour(rgb):
        started.set()
        go_on.wait(120)
        return []

    bench = Bench(FakePipeline(behaviour=behaviour))
    bench.worker.start()
    bench.mailbox.put(Frame(image_message()))
    assert started.wait(60)
    assert bench.worker.stop(timeout=0.05) is False
    bench.mailbox.put(Frame(image_message()))
    go_on.set()
    assert bench.worker.stop(timeout=60) is True
    assert bench.statistics.processed == 1


def test_one_frame_is_looked_at_while_another_is_at_work_and_no_third():
    """The third waits in the mailbox, where a newer one takes its place."""
    go_on, shown = threading.Semaphore(0), threading.Semaphore(0)

    def behaviour(rgb):
        shown.release()
        assert go_on.acquire(timeout=60)
        return []

    pipeline = FakePipeline(behaviour=behaviour)
    bench = Bench(pipeline)
    bench.worker.start()
    for stamp in (1.0, 2.0):
        bench.mailbox.put(Frame(image_message(stamp=stamp)))
        wait_for(lambda stamp=stamp: pipeline.looked[-1:] == [stamp])
    assert shown.acquire(timeout=60)
    for stamp in (3.0, 4.0):
        bench.mailbox.put(Frame(image_message(stamp=stamp)))
    assert (pipeline.looked, len(pipeline.frames)) == ([1.0, 2.0], 1)
    for _ in range(3):
        go_on.release()
    wait_for(lambda: len(bench.results) == 3)
    assert bench.worker.stop(60)
    assert pipeline.looked == [1.0, 2.0, 4.0] == [stamp for _, stamp, _ in pipeline.frames]
    assert bench.statistics.processed == 3


def test_a_look_that_raises_is_told_like_any_other_half():
    bench = Bench()
    look, bench.pipeline.look = bench.pipeline.look, lambda *arguments: 1 / 0
    for _ in range(3):
        bench.process(Frame(image_message()))
    assert bench.logged == ["frame failed: ZeroDivisionError: division by zero"]
    assert (bench.statistics.failures, bench.pipeline.resets) == (3, 1)
    bench.pipeline.look = look
    bench.process(Frame(image_message()))
    assert bench.statistics.processed == 1


def bench_that_looks() -> tuple[Bench, threading.Event]:
    """A bench whose worker is looking at a frame until the event is set."""
    busy, go_on = threading.Event(), threading.Event()
    bench = Bench()

    def look(*arguments):
        busy.set()
        assert go_on.wait(60)

    bench.pipeline.look = look
    bench.worker.start()
    bench.mailbox.put(Frame(image_message()))
    assert busy.wait(60)
    return bench, go_on


def test_a_look_that_does_not_end_is_waited_for_and_what_is_asked_meanwhile_is_answered():
    bench, go_on = bench_that_looks()
    assert bench.worker.between_frames(lambda: "now").result(60) == "now", "the other thread is free"
    assert bench.worker.stop(0.05) is False and bench.worker.alive
    answer = bench.worker.between_frames(lambda: threading.current_thread().name)
    assert not answer.done()
    go_on.set()
    assert answer.result(60) == "ofer-worker"
    assert bench.worker.stop(60) and not bench.worker.alive
    assert not bench.results, "nobody waits for it any more"


def test_every_frame_taken_is_counted_in_the_end_wherever_stop_meets_it():
    """One is being made, one has been looked at and waits for that, one waits in the mailbox."""
    shown, go_on = threading.Event(), threading.Event()

    def behaviour(rgb):
        shown.set()
        assert go_on.wait(60)
        return []

    bench = Bench(FakePipeline(behaviour=behaviour), deliver=lambda result: None)  # as after a stop: nothing goes out
    bench.worker.start()
    for stamp in (1.0, 2.0):
        bench.mailbox.put(Frame(image_message(stamp=stamp)))
        wait_for(lambda stamp=stamp: bench.pipeline.looked[-1:] == [stamp])
    wait_for(lambda: bench.worker._relay.early() == np.inf)
    assert shown.wait(60)
    bench.mailbox.put(Frame(image_message(stamp=3.0)))
    assert bench.worker.stop(0.05) is False
    assert bench.statistics.dropped == 2
    go_on.set()
    assert bench.worker.stop(60)
    assert (bench.statistics.dropped, bench.statistics.processed) == (3, 0)


def test_a_frame_that_is_looked_at_when_the_worker_stops_is_counted():
    bench, go_on = bench_that_looks()
    assert bench.worker.stop(0.05) is False
    go_on.set()
    assert bench.worker.stop(60)
    assert (bench.statistics.dropped, bench.statistics.processed) == (1, 0)


def test_what_can_be_done_without_a_frame_is_done_before_it_comes_and_ends_nothing_where_it_fails():
    bench, again = Bench(), threading.Semaphore(0)

    def look_ahead():
        again.release()
        raise RuntimeError("for a test")

    bench.pipeline.look_ahead = look_ahead
    bench.worker.start()
    assert again.acquire(timeout=60), "before the first frame"
    for stamp in (1.0, 2.0):
        bench.mailbox.put(Frame(image_message(stamp=stamp)))
        assert again.acquire(timeout=60)
    assert bench.pipeline.looked == [1.0, 2.0]
    assert bench.worker.stop(60) and bench.statistics.failures == 0


@pytest.mark.parametrize("waits", [False, True])
def test_what_can_be_done_without_a_frame_lets_the_one_at_work_go_out_first_unless_another_waits(waits):
    shown, go_on, order = threading.Event(), threading.Event(), []

    def behaviour(rgb):
        shown.set()
        assert go_on.wait(60)
        return []

    bench = Bench(FakePipeline(behaviour=behaviour), deliver=lambda result: order.append("out") or {})
    bench.pipeline.look_ahead = lambda: order.append("ahead")
    bench.worker.start()
    wait_for(lambda: order == ["ahead"])
    bench.mailbox.put(Frame(image_message(stamp=1.0)))
    assert shown.wait(60)
    if waits:
        bench.mailbox.put(Frame(image_message(stamp=2.0)))
        wait_for(lambda: len(order) == 2)
    else:
        time.sleep(0.2)  # in which it would be done, if it did not wait
    go_on.set()
    wait_for(lambda: len(order) >= 3)
    assert order[:3] == (["ahead", "ahead", "out"] if waits else ["ahead", "out", "ahead"])
    assert bench.worker.stop(60)


class Clock:
    """Seconds that a test lets pass."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_the_relay_begins_an_item_when_it_will_be_wanted():
    clock = Clock()
    relay = Relay(clock)
    assert relay.early() == 0
    relay.put("a", took=0.01, computed=0.01)
    assert relay.early() == np.inf and relay.take() == "a"
    assert relay.early() == 0, "nothing is known of how long that takes"
    clock.now += 0.05
    relay.put("b", took=0.02, computed=0.02)
    assert relay.take() == "b"
    assert relay.early() == pytest.approx(0.03), "done in 0.05, ready after 0.02"
    clock.now += 0.04
    assert relay.early() == 0
    relay.wake()
    assert relay.take() is None and relay.early() == 0, "idle"


def test_the_relay_s_threads_take_turns_where_they_are_in_each_other_s_way():
    """One processor for both: what is prepared beside an item's work takes twice the time that it computes."""
    clock = Clock()
    relay = Relay(clock)
    relay.put("a", took=0.01, computed=0.01)
    for _ in range(3):
        relay.take()
        clock.now += 0.05
        assert relay.early() == 0
        relay.put("b", took=0.02, computed=0.01)
    relay.take()
    clock.now += 1
    assert relay.early() == np.inf, "not beside the item at work"
    relay.wake()
    assert relay.take() is None and relay.early() == 0, "after it"
    relay.put("c", took=0.05, computed=0.01)
    assert relay.take() == "c"
    clock.now += 4.1
    assert relay.early() == 0, "tried again"
    for _ in range(20):
        relay.put("d", took=0.02, computed=0.018)
        assert relay.take() == "d"
        clock.now += 0.05
        assert relay.early() < np.inf


def test_the_relay_wakes_both_ends():
    relay = Relay()
    relay.put("a", took=0.0, computed=0.0)
    turns: list[bool] = []
    thread = threading.Thread(target=lambda: turns.extend([relay.wait_for_turn(), relay.wait_for_turn()]), daemon=True)
    thread.start()
    thread.join(0.05)
    assert thread.is_alive(), "one waits"
    assert relay.take() == "a"
    wait_for(lambda: turns)
    relay.put("b", took=0.0, computed=0.0)
    relay.close()
    thread.join(60)
    assert turns[0] is True and relay.take() is None
    relay.put("c", took=0.0, computed=0.0)
    assert relay.take() is None and not relay.wait_for_turn()


def test_problems_are_repeated_rarely_with_a_count():
    now = [100.0]
    logged: list[str] = []
    problems = ProblemLog(logged.append, lambda: now[0])
    for _ in range(10):
        problems.report("a")
    problems.report("b")
    now[0] += 6
    assert problems.latest(within=5) == ""
    problems.report("a")
    assert logged == ["a", "b", "a (9 more times)"]
    assert problems.latest(within=5) == "a"
    problems.clear()
    assert problems.latest() == ""


@pytest.mark.parametrize(("stream", "cap", "expected"), [(30, 30, 300), (30, 10, 100), (60, 30, 300), (30, 0, 300)])
def test_the_rate_cap_lets_its_rate_through(stream, cap, expected):
    rng = np.random.default_rng(0)
    times = 50 + np.arange(10 * stream) / stream + rng.uniform(-0.004, 0.004, 10 * stream)
    limiter = RateCap()
    assert sum(limiter.due(cap, now) for now in times) == pytest.approx(expected, rel=0.05)


def test_resident_memory_is_that_of_this_process():
    assert 20 < resident_megabytes() < 20_000


def calibration() -> tuple[Calibration, list[str]]:
    logged: list[str] = []
    return Calibration(60.0, ProblemLog(logged.append, lambda: 100.0)), logged


def test_camera_info_makes_poses_metric_and_follows_a_scaled_stream():
    camera, logged = calibration()
    assert not camera.intrinsics(640, 480).metric
    camera.update(camera_info(image_message().header, 640, 480, 90.0))
    assert camera.intrinsics(640, 480).metric
    assert camera.intrinsics(640, 480).K[0, 0] == pytest.approx(320)
    assert camera.intrinsics(320, 240).K[0, 0] == pytest.approx(160)
    assert not logged


def test_an_uncalibrated_camera_is_told_and_a_field_of_view_assumed():
    camera, logged = calibration()
    camera.update(CameraInfo(width=640, height=480))
    guess = camera.intrinsics(640, 480)
    assert not guess.metric
    assert guess.K[0, 0] == pytest.approx(320 / np.tan(np.radians(30)))
    assert len(logged) == 1
    assert "not calibrated" in logged[0]


def test_camera_info_of_another_camera_is_told_and_not_used():
    camera, logged = calibration()
    camera.update(camera_info(image_message().header, 1280, 720, 60.0))
    assert not camera.intrinsics(640, 480).metric
    assert not logged, "its CameraInfo may be on its way"
    assert not camera.intrinsics(640, 480).metric
    assert "it is for 1280 x 720, the image is 640 x 480" in logged[0]


def test_each_size_keeps_its_camera_info():
    camera, logged = calibration()
    header = image_message().header
    for width, height, degrees in ((640, 480, 90.0), (300, 450, 60.0), (320, 240, 60.0)):
        camera.update(camera_info(header, width, height, degrees))
    assert camera.intrinsics(640, 480).K[0, 0] == pytest.approx(320), "not the scaled one of the newer size"
    assert camera.intrinsics(300, 450).metric
    assert not logged
    camera.update(camera_info(header, 640, 480, 60.0))
    assert camera.intrinsics(640, 480).K[0, 0] == pytest.approx(320 / np.tan(np.radians(30)))
    for side in range(50, 60):
        camera.update(camera_info(header, side, 2 * side, 60.0))
    assert len(camera._calibrated) == 8
    camera.update(CameraInfo(width=640, height=480))
    assert not camera.intrinsics(640, 480).metric


def info_of(**changes) -> CameraInfo:
    """Of a camera as the calibrator leaves it: K with distortion, P of the rectified image."""
    message = camera_info(image_message().header, 640, 480, 60.0)
    message.k[0] = message.k[4] = 900.0
    message.d = [-0.35, 0.12, 0.0, 0.0, 0.0]
    message.p[0] = message.p[5] = 719.0
    for name, value in changes.items():
        setattr(message, name, value)
    return message


def test_rectified_images_have_the_focal_lengths_of_p_and_no_distortion():
    problems = ProblemLog(pytest.fail)
    raw, rectified = Calibration(60.0, problems), Calibration(60.0, problems, rectified=True)
    for calibration in (raw, rectified):
        calibration.update(info_of())
    assert raw.intrinsics(640, 480).K[0, 0] == 900 and raw.intrinsics(640, 480).distortion.size == 5
    shown = rectified.intrinsics(640, 480)
    assert shown.metric and shown.K[0, 0] == 719 and not shown.distortion.size
    assert rectified.intrinsics(320, 240).K[0, 0] == 719 / 2


@pytest.mark.parametrize(
    ("topic", "expected"),
    [("/image_raw", False), ("/cam/image_rect", True), ("/cam/image_rect_color", True), ("/rect/image_raw", False),
     ("/cam/image_rectified", True), ("/cam/image_color", False), ("/cam/direct", False)],
)  # fmt: skip
def test_the_topic_s_last_name_tells_rectified_images(topic, expected):
    assert is_rectified(topic) is expected


@pytest.mark.parametrize(
    "changes",
    [
        {"binning_x": 1000},
        {"distortion_model": "unheard_of"},
        {"d": [0.1, 0.2, 0.3]},
        {"d": [-9.0, 0.0, 0.0, 0.0, 0.0]},  # finite, but two rays fall on one pixel
        {"d": [1e8, 0.0, 0.0, 0.0, 0.0]},
        {"k": [1e9, 0.0, 320.0, 0.0, 1e9, 240.0, 0.0, 0.0, 1.0]},
        {"k": [900.0, 0.0, 320.0, 0.0, 900.0, 240.0, 0.0, 0.0, 0.0]},
        {"k": [float("nan")] * 9},
        {"roi": RegionOfInterest(x_offset=600, width=200, height=100)},
        {"roi": RegionOfInterest(width=200)},
        {"width": 0},
    ],
)
def test_a_bad_camera_info_is_said_once_not_used_and_forgotten_with_the_next_good_one(changes):
    bench = Bench()
    bad = info_of(**changes)
    for _ in range(3):
        bench.process(Frame(image_message(np.zeros((480, 640, 3), np.uint8)), bad))
        assert not bench.results[-1].intrinsics.metric
    assert bench.statistics.failures == 0 and len(bench.results) == 3
    assert len(bench.logged) == 1 and bench.logged[0].startswith("camera_info is not used: ")
    assert bench.problems.latest(within=5) == bench.logged[0]
    bench.process(Frame(image_message(np.zeros((480, 640, 3), np.uint8)), info_of()))
    assert bench.results[-1].intrinsics.metric


@pytest.mark.parametrize("busy", [False, True])
def test_what_is_asked_between_frames_is_done_by_the_worker_s_thread(busy):
    bench = Bench()
    bench.worker.start()
    if busy:
        bench.mailbox.put(Frame(image_message()))
    name = bench.worker.between_frames(lambda: threading.current_thread().name).result(60)
    assert name == "ofer-worker"
    with pytest.raises(ZeroDivisionError):
        bench.worker.between_frames(lambda: 1 / 0).result(60)
    assert bench.worker.stop(60) and not bench.worker.alive


def test_the_pipeline_is_told_each_frame_s_latency():
    bench = Bench(max_age=2000.0)
    bench.process(Frame(image_message(), arrived=time.monotonic() - 1000))
    (latency,) = bench.pipeline.latencies
    assert 1e6 <= latency < 2e6


def test_a_pair_s_own_camera_info_is_used():
    bench = Bench()
    for degrees in (90.0, 40.0):
        bench.process(Frame(image_message(), camera_info(image_message().header, 64, 48, degrees)))
        intrinsics = bench.results[-1].intrinsics
        assert intrinsics.metric
        assert intrinsics.K[0, 0] == pytest.approx(32 / np.tan(np.radians(degrees) / 2))


def test_region_of_interest_and_binning_of_a_camera_info():
    """The sensor's K, of which the image shows a part at half the resolution."""
    camera = Calibration(60.0, ProblemLog(pytest.fail))
    message = camera_info(image_message().header, 1280, 960, 60.0)
    full = Intrinsics.from_field_of_view(1280, 960, 60.0).K
    message.roi.x_offset, message.roi.y_offset, message.roi.width, message.roi.height = 100, 60, 640, 480
    message.binning_x = message.binning_y = 2
    camera.update(message)
    shown = camera.intrinsics(320, 240)
    assert shown.metric
    assert shown.K[0, 0] == pytest.approx(full[0, 0] / 2)
    # The centre of pixel (x, y) of the sensor is that of ((x - 100 + 0.5) / 2 - 0.5, ...) of the image.
    assert shown.K[0, 2] == pytest.approx((full[0, 2] - 100 + 0.5) / 2 - 0.5)
    assert shown.K[1, 2] == pytest.approx((full[1, 2] - 60 + 0.5) / 2 - 0.5)
