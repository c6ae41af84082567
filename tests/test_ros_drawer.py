"""Markers and overlay on a thread of their own: they hold up no frame, and nothing of them outlives what they show."""

from __future__ import annotations

import pytest

pytest.importorskip("ofer_msgs.msg._face", reason="source .venv/ofer_env.sh")

import threading

from ros_support import NodeHarness, image_message, wait_for
from std_srvs.srv import Trigger

from ofer_ros.base.problem_log import ProblemLog
from ofer_ros.base.statistics import FrameStatistics
from ofer_ros.work.drawer import Drawer

pytestmark = pytest.mark.ros


class FakeDrawings:
    """Notes what is drawn and by which thread; each waits for `go_on` where `held`."""

    def __init__(self, held: bool = False) -> None:
        self.wanted, self.one_a_frame = True, False
        self.drawn: list[tuple[str, str]] = []
        self.busy, self.go_on = threading.Event(), threading.Event()
        if not held:
            self.go_on.set()

    def publish(self, drawing: str) -> dict[str, float]:
        self.busy.set()
        assert self.go_on.wait(60)
        if drawing == "bad":
            raise ValueError("no mesh")
        self.drawn.append((drawing, threading.current_thread().name))
        return {"markers": 1.5}


class Bench:
    """A drawer at work, with what it counts and tells."""

    def __init__(self, **how) -> None:
        self.drawings = FakeDrawings(**how)
        self.statistics = FrameStatistics()
        self.logged: list[str] = []
        self.drawer = Drawer(self.drawings, self.statistics, ProblemLog(self.logged.append))
        self.drawer.start()

    def finish(self) -> list[str]:
        """What was drawn, once what waits is."""
        self.drawings.go_on.set()
        wait_for(lambda: not self.drawer._mailbox.full)
        with self.drawer.still():
            pass
        assert self.drawer.stop(60) and not self.drawer.alive
        return [name for name, _ in self.drawings.drawn]


def test_a_slow_drawing_holds_up_nobody_and_the_newest_that_waits_follows_it():
    bench = Bench(held=True)
    bench.drawer.put("a")
    assert bench.drawings.busy.wait(60)
    for name in "bcd":
        bench.drawer.put(name)
    assert bench.statistics.undrawn == 2
    assert bench.finish() == ["a", "d"]
    assert {thread for _, thread in bench.drawings.drawn} == {"ofer-drawer"}
    assert bench.statistics.stages_ms() == {"draw/markers": 1.5}


def test_one_a_frame_is_drawn_before_the_next_frame():
    bench = Bench()
    bench.drawings.one_a_frame = True
    for name in "abc":
        bench.drawer.put(name)
        assert bench.drawings.drawn[-1] == (name, threading.current_thread().name)
    assert bench.finish() == ["a", "b", "c"] and bench.statistics.undrawn == 0


def test_nothing_is_kept_for_nobody():
    bench = Bench(held=True)
    bench.drawings.wanted = False
    bench.drawer.put("a")
    assert not bench.drawer._mailbox.full
    assert bench.finish() == [] and not bench.drawings.busy.is_set()


def test_a_drawing_that_fails_is_told_and_the_next_one_follows():
    bench = Bench()
    bench.drawer.put("bad")
    wait_for(lambda: bench.logged)
    bench.drawer.put("a")
    assert bench.finish() == ["a"]
    assert bench.logged == ["drawing failed: ValueError: no mesh"]


def test_still_waits_for_the_drawing_at_work_and_drops_what_waits():
    bench = Bench(held=True)
    bench.drawer.put("a")
    assert bench.drawings.busy.wait(60)
    bench.drawer.put("b")
    done: list[list] = []

    def still() -> None:
        with bench.drawer.still():
            done.append(list(bench.drawings.drawn))

    thread = threading.Thread(target=still, daemon=True)
    thread.start()
    thread.join(0.05)
    assert thread.is_alive(), "a is at work"
    bench.drawings.go_on.set()
    thread.join(60)
    assert [name for name, _ in done[0]] == ["a"]
    assert bench.finish() == ["a"]


def test_stop_gives_up_on_a_drawing_that_does_not_end():
    bench = Bench(held=True)
    bench.drawer.put("a")
    assert bench.drawings.busy.wait(60)
    assert bench.drawer.stop(0.05) is False and bench.drawer.alive
    bench.drawings.go_on.set()
    assert bench.drawer.stop(60) and not bench.drawer.alive


def test_faces_go_on_while_a_drawing_hangs_and_forget_waits_for_it():
    with NodeHarness(marker_rate=1000.0, overlay_rate=1000.0) as harness:
        drawings = harness.node._outputs.drawings
        busy, go_on, publish, order = threading.Event(), threading.Event(), drawings.publish, []

        def slow(drawing):
            busy.set()
            assert go_on.wait(60)
            order.append("drawn")
            return publish(drawing)

        drawings.publish = slow
        drawings.forget = lambda: order.append("forgotten")
        harness.send_and_wait(image_message(stamp=1.0))
        assert busy.wait(60)
        harness.send_and_wait(image_message(stamp=2.0))
        harness.send_and_wait(image_message(stamp=3.0))
        waiting = harness.node._stream._drawer._mailbox
        clear = waiting.clear
        waiting.clear = lambda: (clear(), go_on.set())  # only once `forget` waits for it does the drawing end
        assert harness.call(Trigger, "/ofer_node/forget", Trigger.Request()).success
        assert order == ["drawn", "forgotten"], "what waited is dropped"
