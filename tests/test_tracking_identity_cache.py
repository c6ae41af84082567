"""Identities of a camera: given back to the same face, never to another; blends; draws beside the stream."""

from __future__ import annotations

import subprocess
import sys
import threading
from concurrent.futures import Future

import numpy as np
import pytest
from identity_support import OTHER, SAME, Drawer, drawn, head, view
from test_head_model import HEAD

from ofer_models.tracking.identity_cache import LONG_DRAW, MOST_LOST, IdentityCache
from ofer_models.tracking.identity_candidates import CandidateDrawer
from ofer_models.tracking.identity_draws import DrawRunner, Job
from ofer_models.tracking.identity_state import State
from ofer_models.tracking.shape_blend import BLEND_TIME, ShapeBlend

STEP = 0.1


class Scene:
    """A cache and the frames it sees: `frame(f1=0, f2=1)` shows person 0 on track f1 and person 1 on f2."""

    def __init__(self, drawer=None, **options) -> None:
        self.drawer = drawer or Drawer()
        self.cache = IdentityCache(self.drawer, HEAD, SAME, OTHER, **options)
        self.stamp = 0.0
        self.tracked: set[str] = set()

    def frame(
        self, quality: float = 0.8, gone: tuple[str, ...] = (), tremble: float = 0.01, occlusion: float = 0.0, **who
    ) -> dict:
        """gone: tracks that the tracker gives up. Returns what each visible track shows."""
        self.stamp += STEP
        self.tracked = (self.tracked | set(who)) - set(gone)
        wanted = [id for id in who if self.cache.wants(id, quality, self.stamp)]
        views = {id: view(self.stamp, quality, who[id], tremble, occlusion) for id in wanted}
        self.cache.update(self.tracked, list(who), views, self.stamp)
        return {id: self.cache.shown(id, self.stamp) for id in who}

    def frames(self, count: int, **who) -> dict:
        for _ in range(count):
            shown = self.frame(**who)
        return shown

    def head_of(self, id: str) -> float:
        """The number of the head that a track has settled on."""
        return float(self.cache._tracks[id].machine.chosen.identity.betas[0])


@pytest.fixture
def scene() -> Scene:
    return Scene()


def test_a_face_gets_a_head_in_its_first_frame_and_keeps_it(scene):
    first = scene.frame(f1=0)["f1"]
    assert (first.revision, first.blend, first.state) == (1, 1.0, State.GATHERING)
    settled = scene.frames(30, f1=0)["f1"]
    assert settled.state is State.LOCKED and settled.blend == 1.0
    asked = len(scene.drawer.asked)
    assert scene.frames(100, f1=0)["f1"].revision == settled.revision and len(scene.drawer.asked) == asked


def test_a_lost_face_gets_its_head_back_on_another_track(scene):
    scene.frames(20, f1=0)
    mine, revision = scene.head_of("f1"), scene.cache.shown("f1", scene.stamp).revision
    scene.frames(5)
    scene.frames(50, gone=("f1",))
    assert scene.cache.remembered == 1
    back = scene.frame(f2=0)["f2"]
    assert scene.head_of("f2") == mine and (back.revision, back.blend, back.state) == (revision, 1.0, State.LOCKED)
    assert scene.cache.remembered == 0
    assert scene.frames(20, f2=0)["f2"].revision == revision


def test_somebody_else_does_not_get_it(scene):
    scene.frames(20, f1=0)
    theirs = scene.head_of("f1")
    scene.frames(5, gone=("f1",))
    assert scene.frame(f2=1)["f2"].state is State.GATHERING
    scene.frames(30, f2=1)
    assert scene.head_of("f2") != theirs and scene.cache.remembered == 1
    assert scene.frame(f3=0, f2=1)["f3"].state is State.LOCKED and scene.head_of("f3") == theirs


def test_not_even_in_the_same_place_at_once(scene):
    """The tracker takes the next person for the last one; the context does not."""
    scene.frames(20, f1=0)
    theirs = scene.head_of("f1")
    scene.frames(2)
    shown = scene.frame(f1=1)["f1"]
    assert scene.head_of("f1") != theirs and shown.blend == 1.0  # another face: no blend
    assert scene.cache.remembered == 1


def test_a_short_loss_changes_nothing(scene):
    before = scene.frames(20, f1=0)["f1"]
    scene.frames(3)
    after = scene.frame(f1=0)["f1"]
    assert after == before


def test_a_poor_view_does_not_decide_who_is_back(scene):
    before = scene.frames(20, f1=0)["f1"]
    mine = scene.head_of("f1")
    scene.frames(3)
    waiting = scene.frames(5, quality=0.1, f1=0)["f1"]
    assert waiting.state is State.LOST and waiting.revision == before.revision
    assert scene.frame(f1=0)["f1"].state is State.LOCKED
    scene.frames(3)
    scene.frames(15, quality=0.1, f1=0)  # and it is not waited for without end
    assert scene.head_of("f1") != mine and scene.cache.remembered == 1


def test_a_face_that_cannot_be_told_is_not_taken_for_the_lost_one_for_long(scene):
    before = scene.frames(20, f1=0)["f1"]
    mine = scene.head_of("f1")
    scene.frames(3)
    shown = [scene.frame(tremble=0.0, f1=0.5)["f1"] for _ in range(6)]
    states = [face.state for face in shown]
    assert states[0] is State.LOST and states[-1] is State.GATHERING and states.count(State.LOST) <= 4
    assert scene.head_of("f1") != mine and shown[-1].revision > before.revision
    assert scene.frame(tremble=0.0, f1=0)["f1"].state is State.LOCKED  # recognised after all
    assert scene.head_of("f1") == mine


def test_two_people_cross_and_the_tracks_swap(scene):
    scene.frames(20, f1=0, f2=1)
    mine, theirs = scene.head_of("f1"), scene.head_of("f2")
    revisions = {id: scene.cache.shown(id, scene.stamp).revision for id in ("f1", "f2")}
    scene.frames(6, f1=1, f2=0)
    assert (scene.head_of("f1"), scene.head_of("f2")) == (theirs, mine)
    after = scene.frames(20, f1=1, f2=0)
    assert all(after[id].revision > revisions[id] and after[id].state is State.LOCKED for id in after)
    scene.frames(26, f1=0, f2=1)  # and back
    assert (scene.head_of("f1"), scene.head_of("f2")) == (mine, theirs)


def test_two_people_cross_and_one_covers_the_other(scene):
    scene.frames(20, f1=0, f2=1)
    mine, theirs = scene.head_of("f1"), scene.head_of("f2")
    scene.frames(4, f1=1)  # f1 goes on with the face in front, f2 loses its own
    scene.frames(4, f1=1, f2=0)
    assert (scene.head_of("f1"), scene.head_of("f2")) == (theirs, mine)


def test_two_people_cross_and_the_tracks_do_not_swap(scene):
    before = scene.frames(20, f1=0, f2=1)
    scene.frames(3, f1=0)
    after = scene.frames(20, f1=0, f2=1)
    assert all(after[id].revision == before[id].revision for id in after)


def test_a_single_odd_view_takes_nobodys_head(scene):
    before = scene.frames(20, f1=0, f2=1)
    scene.frame(f1=1, f2=1)
    after = scene.frames(10, f1=0, f2=1)
    assert all(after[id].revision == before[id].revision for id in after)


def test_a_hand_before_the_face_is_not_somebody_else(scene):
    """Its context is as unlike as another person's."""
    before = scene.frames(20, f1=0)["f1"]
    covered = scene.frames(30, quality=0.5, occlusion=0.4, f1=3)["f1"]
    assert covered.revision == before.revision and covered.state is State.LOCKED
    assert scene.frames(10, f1=0)["f1"].revision == before.revision


def test_a_mask_that_is_always_there_does_not_hide_a_change(scene):
    scene.frames(20, occlusion=0.4, f1=0)
    mine = scene.head_of("f1")
    scene.frames(3)
    scene.frame(occlusion=0.4, f1=0)
    assert scene.head_of("f1") == mine  # the tracker and the context agree
    scene.frames(20, occlusion=0.4, f1=1)
    assert scene.head_of("f1") != mine


def test_a_covered_face_on_another_track_is_not_recognised(scene):
    scene.frames(20, f1=0)
    mine = scene.head_of("f1")
    scene.frames(3, gone=("f1",))
    scene.frame(occlusion=0.3, f2=0)
    assert scene.head_of("f2") != mine
    scene.frame(f2=0)
    assert scene.head_of("f2") == mine


def test_two_who_look_alike_get_heads_of_their_own(scene):
    """Nobody is given back who is not clearly more alike than another known face."""
    scene.frames(20, f1=0, f2=0)
    twins = {scene.head_of("f1"), scene.head_of("f2")}
    assert len(twins) == 2
    scene.frames(3, gone=("f1", "f2"))
    scene.frame(f3=0)
    assert scene.head_of("f3") not in twins and scene.cache.remembered == 2


def test_memory_ends_after_the_stated_time():
    scene = Scene(keep=2.0)
    scene.frames(20, f1=0)
    scene.frames(19, gone=("f1",))
    assert scene.cache.remembered == 1
    scene.frames(2)
    assert scene.cache.remembered == 0
    assert scene.frame(f2=0)["f2"].state is State.GATHERING


def test_the_last_faces_are_remembered_where_many_pass(scene):
    for number in range(MOST_LOST + 5):
        scene.frame(quality=0.2, gone=(f"f{number - 1}",), **{f"f{number}": 0})  # too poor to be recognised
    assert scene.cache.remembered == MOST_LOST


def test_a_clock_set_back_forgets(scene):
    scene.frames(20, f1=0)
    scene.frame(gone=("f1",))
    scene.stamp = -100.0
    scene.frame()
    assert scene.cache.remembered == 0


def test_forget_clears_at_once(scene):
    scene.frames(20, f1=0)
    scene.frames(5, gone=("f1",), f2=1)
    scene.cache.forget()
    assert scene.cache.remembered == 0 and not scene.cache._tracks
    assert scene.frame(f3=0)["f3"].state is State.GATHERING


def test_reset_gathers_one_track_anew(scene):
    before = scene.frames(20, f1=0, f2=1)
    assert scene.cache.reset("f1") and not scene.cache.reset("f9")
    after = scene.frame(f1=0, f2=1)
    assert after["f1"].state is State.GATHERING and after["f1"].revision > before["f1"].revision
    assert after["f2"] == before["f2"] and scene.cache.remembered == 0


def test_a_replacement_is_blended_over_its_time(scene):
    scene.frames(20, quality=0.6, f1=0)
    old = scene.cache.shown("f1", scene.stamp)
    shown = [scene.frame(quality=0.95, f1=0)["f1"]]
    new = scene.head_of("f1")
    start = scene.stamp
    assert shown[0].revision == old.revision + 1 and shown[0].blend == 0.0
    np.testing.assert_array_equal(shown[0].identity.betas, old.identity.betas)  # nothing jumps
    parts = [scene.cache.shown("f1", start + BLEND_TIME * part) for part in (0.25, 0.5, 0.75, 1.0)]
    values = [old.identity.betas[0], *(float(part.identity.betas[0]) for part in parts)]
    assert np.all(np.diff(values) > 0) and values[-1] == new and values[2] == pytest.approx((values[0] + new) / 2)
    assert [part.blend for part in parts] == pytest.approx([0.25, 0.5, 0.75, 1.0])
    middle = HEAD.shaped(parts[1].identity.betas)
    np.testing.assert_allclose(middle, (old.identity.vertices + parts[3].identity.vertices) / 2, atol=1e-6)
    np.testing.assert_allclose(parts[1].identity.vertices, middle, atol=1e-6)


def test_a_blend_that_is_overtaken_goes_on_from_where_it_is():
    blend = ShapeBlend(head(0.0))
    assert blend.at(-5.0)[1] == blend.at(5.0)[1] == 1.0
    blend.to(head(1.0), 1.0)
    blend.to(head(-1.0), 1.0 + BLEND_TIME / 2)
    np.testing.assert_allclose(blend.at(1.0 + BLEND_TIME / 2)[0], head(0.5), atol=1e-6)
    assert blend.at(9.0)[0] is blend.target


class SlowDrawer(Drawer):
    """Draws nothing before it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.go = threading.Event()

    def __call__(self, draw):
        assert self.go.wait(300)
        return super().__call__(draw)


def settle(scene: Scene, **who) -> dict:
    """Let the background finish what it has and show a frame, whose own draws end after it."""
    scene.drawer.go.set()
    for _, _, done in scene.cache._runner._jobs:
        done.exception(300)
    scene.drawer.go.clear()
    shown = scene.frame(**who)
    scene.drawer.go.set()
    return shown


def test_frames_do_not_wait_for_a_draw_in_the_background():
    scene = Scene(SlowDrawer(), background=True)
    shown = scene.frames(25, f1=0, f2=1)  # a draw that was waited for would never end
    assert [(face.revision, face.score) for face in shown.values()] == [(0, 0.0)] * 2
    np.testing.assert_array_equal(shown["f1"].identity.vertices, HEAD.v_template)
    shown = settle(scene, f1=0, f2=1)
    assert [face.revision for face in shown.values()] == [1, 1] and shown["f1"].blend == 0.0


def test_a_draw_that_ends_after_forget_changes_nothing():
    scene = Scene(SlowDrawer(), background=True)
    scene.frames(3, f1=0)
    jobs = list(scene.cache._runner._jobs)
    scene.cache.forget()
    scene.drawer.go.set()
    for _, _, done in jobs:
        assert done.cancelled() or done.exception(300) is None
    scene.cache.update({"f1"}, [], {}, scene.stamp)
    assert not scene.cache._tracks and scene.cache.remembered == 0


@pytest.mark.parametrize("background", [False, True])
def test_a_draw_that_fails_is_told_and_tried_again(background, caplog):
    class Failing(Drawer):
        def __call__(self, draw):
            if not self.asked:
                self.asked.append(draw)
                raise RuntimeError("out of memory")
            return super().__call__(draw)

    scene = Scene(Failing(), background=background)
    revisions = []
    for _ in range(60):
        revisions.append(scene.frame(f1=0)["f1"].revision)
        for _, _, done in scene.cache._runner._jobs:
            done.exception(300)
    assert revisions[0] == 0 and revisions[-1] == 1 and scene.cache.failures == 1
    assert caplog.messages == ["an identity could not be drawn: RuntimeError: out of memory"]


def test_a_draw_that_fails_drops_no_other_and_every_failure_ends_a_frame(caplog):
    class Failing(Drawer):
        def __call__(self, draw):
            self.asked.append(draw)
            if len(self.asked) == 1:
                raise RuntimeError("no luck")
            return drawn(1.0)

    scene = Scene(Failing(), background=True)
    scene.frame(f1=0, f2=1, f3=2)
    for _, _, done in scene.cache._runner._jobs:
        done.exception(300)
    shown = scene.frame(f1=0, f2=1, f3=2)
    assert [shown[id].revision for id in ("f1", "f2", "f3")] == [0, 1, 1]


def test_a_draw_that_ends_while_the_finished_are_looked_at_is_not_lost():
    class Ending(Future):
        asked = 0

        def done(self) -> bool:
            self.asked += 1
            return self.asked > 1  # between the first look and the next

    runner = DrawRunner(lambda draw: None, background=False)
    runner._jobs = [Job("machine", "draw", Ending())]
    assert runner.finished() == []
    assert [job[:2] for job in runner.finished()] == [("machine", "draw")]


class HangingDrawer(Drawer):
    """Its first draw ends when it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.begun, self.go = threading.Event(), threading.Event()

    def __call__(self, draw):
        first = not self.asked
        result = super().__call__(draw)
        if first:
            self.begun.set()
            assert self.go.wait(300)
        return result


def test_draws_of_those_who_are_gone_reset_or_forgotten_hold_up_nobody():
    """Twenty pass while one draw is at work: who is there when it ends is the next."""
    scene = Scene(HangingDrawer(), background=True)
    scene.frame(f0=0)
    assert scene.drawer.begun.wait(60)
    for number in range(1, 20):
        scene.frame(gone=(f"f{number - 1}",), **{f"f{number}": number % 7})
    scene.frame(f19=19 % 7, f20=6)
    scene.cache.reset("f20")
    scene.frame(gone=("f19",), f20=6)
    assert len(scene.cache._runner._jobs) == 1
    shown = settle(scene, f20=6)
    assert shown["f20"].revision == 2, "the mean head, reset, and a head"
    assert len(scene.drawer.asked) == 2, "that which was at work, and the one that somebody waits for"


def test_a_draw_that_does_not_end_is_told_and_keeps_nobody_from_forgetting_and_nothing_alive():
    scene = Scene(HangingDrawer(), background=True)
    seconds = [100.0]
    scene.cache._runner._clock = lambda: seconds[0]
    scene.frame(f1=0)
    assert scene.drawer.begun.wait(60) and scene.cache.trouble == ""
    seconds[0] += LONG_DRAW + 1
    assert scene.cache.trouble.startswith("an identity is being drawn for more than 30 s")
    (thread,) = [one for one in threading.enumerate() if one.name == "ofer-identity"]
    assert thread.daemon, "it does not keep the process from ending"
    scene.cache.forget()
    assert scene.frame(f1=0)["f1"].state is State.GATHERING
    assert settle(scene, f1=0)["f1"].revision == 1 and scene.cache.trouble == ""
    scene.cache.close()
    assert not thread.is_alive()
    scene.frame(f2=1)
    assert not scene.cache._runner._jobs, "closed"


def test_a_process_ends_well_while_identities_are_drawn():
    """Nobody closes the pipeline: the thread that draws would be cut off in the middle of a network."""
    program = (
        "import threading, time\n"
        "from ofer_models.tracking.identity_draws import DrawRunner\n"
        "from ofer_models.tracking.identity_state import IdentityMachine\n"
        "begun = threading.Event()\n"
        "def draw(request):\n"
        "    begun.set()\n"
        "    time.sleep(0.3)\n"
        "    print('drawn', request, flush=True)\n"
        "runner = DrawRunner(draw, background=True)\n"
        "for number in range(50): runner.submit(IdentityMachine(), number)\n"
        "begun.wait()\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stderr) == (0, "")
    assert 1 <= done.stdout.count("drawn") < 50, "the one at work comes to its end, and no other is begun"


def test_trouble_lasts_while_somebody_waits_for_a_head():
    class Failing(Drawer):
        broken = True

        def __call__(self, draw):
            if self.broken:
                raise RuntimeError("no memory")
            return super().__call__(draw)

    scene = Scene(Failing())
    scene.frame(f1=0, f2=1)
    assert scene.cache.trouble == "an identity could not be drawn: RuntimeError: no memory"
    scene.frame(f2=1)
    scene.frame(gone=("f1",), f2=1)
    assert scene.cache.trouble
    scene.frames(2)
    assert scene.cache.trouble == "", "nobody is there"
    scene.frames(80, f3=2)
    assert scene.cache.trouble
    scene.drawer.broken = False
    assert scene.frames(80, f3=2)["f3"].revision == 1 and scene.cache.trouble == ""


def test_a_head_that_is_no_number_is_a_draw_that_failed(open_bundle):
    drawer = CandidateDrawer(open_bundle, None, None, 4)
    assert drawer._head(np.zeros(3, np.float32), 0.5).score == 0.5
    for betas, score in ((np.full(3, np.nan, np.float32), 0.5), (np.zeros(3, np.float32), float("nan"))):
        with pytest.raises(ValueError, match="not a number"):
            drawer._head(betas, score)


def test_the_noise_of_a_draw_depends_on_face_and_number_alone():
    asked = [Scene(seed=(3,)), Scene(seed=(3,)), Scene(seed=(4,))]
    for each in asked:
        each.frames(10, f1=0, f2=1)
    seeds = [[draw.seed for draw in each.drawer.asked] for each in asked]
    assert seeds[0] == seeds[1] != seeds[2] and len(set(seeds[0])) == len(seeds[0])
    assert drawn(1.0).identity is not None
