"""The identity's state machine, transition by transition."""

from __future__ import annotations

import numpy as np
import pytest
from identity_support import drawn, head, person, view

from ofer_models.tracking.identity_state import (
    APART,
    BETTER,
    GATHER_TIME,
    GOOD_VIEW,
    POOLED,
    RETRY,
    IdentityMachine,
    State,
)

GOOD, POOR = GOOD_VIEW + 0.1, GOOD_VIEW - 0.2


def feed(machine: IdentityMachine, *views) -> None:
    for each in views:
        assert machine.admits(each.quality, each.stamp)
        machine.offer(each)


def gathering(quality: float = GOOD) -> IdentityMachine:
    """With one view and a first head."""
    machine = IdentityMachine((5,))
    feed(machine, view(0.0, quality))
    machine.drawn(machine.request(0.0), drawn(1.0))
    return machine


def locked(quality: float = GOOD) -> IdentityMachine:
    machine = gathering(quality)
    feed(machine, *(view(0.1 * n, quality) for n in range(1, POOLED)))
    machine.drawn(machine.request(0.3), drawn(None))
    assert machine.request(0.3) is None and machine.state is State.LOCKED
    return machine


def reviewed() -> tuple[IdentityMachine, object]:
    machine = locked(0.6)
    feed(machine, view(1.0, 0.9))
    return machine, machine.request(1.0)


def test_a_new_face_draws_on_its_first_view_whatever_it_is_worth():
    machine = IdentityMachine((5,))
    assert machine.state is State.GATHERING and machine.request(0.0) is None and machine.reference is None
    feed(machine, view(0.0, 0.01))
    draw = machine.request(0.0)
    assert len(draw.views) == 1 and draw.incumbent is None and draw.seed == (5, 1)
    assert machine.request(0.0) is None  # one at a time
    assert machine.drawn(draw, drawn(1.0, 0.7))
    assert machine.state is State.GATHERING and machine.revision == 1
    assert (machine.chosen.revision, machine.chosen.score) == (1, 0.7)
    np.testing.assert_array_equal(machine.chosen.identity.betas, head(1.0))


def test_views_close_in_time_count_once_and_the_better_one_stays():
    machine = gathering(0.4)
    assert not machine.admits(0.5, APART / 2)  # hardly better than its neighbour
    feed(machine, view(APART / 2, 0.6))
    assert [each.quality for each in machine.views] == [0.6]


def test_only_the_best_views_are_kept():
    machine = gathering(0.3)
    feed(machine, *(view(0.2 * n, 0.3) for n in range(1, POOLED)))
    assert not machine.admits(0.3, 2.0)
    feed(machine, view(2.0, 0.45))
    assert [each.quality for each in machine.views] == [0.45] + [0.3] * (POOLED - 1)


def test_a_clearly_better_view_draws_again_while_gathering():
    machine = gathering(0.2)
    feed(machine, view(0.2, 0.2 * BETTER))
    assert machine.request(0.2) is None
    feed(machine, view(0.4, 0.2 * BETTER + 0.01))
    draw = machine.request(0.4)
    np.testing.assert_array_equal(draw.incumbent, head(1.0))
    machine.drawn(draw, drawn(2.0))
    assert machine.state is State.GATHERING and machine.revision == 2
    assert machine.request(0.4) is None


def test_enough_good_views_lock_after_a_draw_on_all_of_them():
    machine = gathering()
    feed(machine, *(view(0.1 * n, GOOD) for n in range(1, POOLED)))
    draw = machine.request(0.3)
    assert len(draw.views) == POOLED and machine.state is State.GATHERING
    machine.drawn(draw, drawn(2.0))
    assert machine.request(0.3) is None
    assert machine.state is State.LOCKED and machine.revision == 2


def test_one_good_view_locks_after_a_while_without_another_draw():
    machine = gathering()
    assert machine.request(GATHER_TIME - 0.01) is None and machine.state is State.GATHERING
    assert machine.request(GATHER_TIME) is None and machine.state is State.LOCKED


def test_poor_views_never_lock():
    machine = gathering(POOR)
    feed(machine, *(view(0.1 * n, POOR) for n in range(1, POOLED)))
    for stamp in (1.0, 10.0, 100.0):
        assert machine.request(stamp) is None and machine.state is State.GATHERING


def test_a_locked_head_wants_nothing_but_a_clearly_better_view():
    machine = locked(0.6)
    assert machine.request(50.0) is None
    assert not machine.admits(0.6 * BETTER, 1.0)
    assert machine.admits(0.6 * BETTER + 0.01, 1.0)


def test_a_clearly_better_view_is_reviewed():
    machine, draw = reviewed()
    assert machine.state is State.REVIEWED
    assert [each.quality for each in draw.views] == [0.9] + [0.6] * (POOLED - 1)
    np.testing.assert_array_equal(draw.incumbent, head(1.0))
    assert not machine.admits(1.0, 1.1) and machine.request(1.1) is None


@pytest.mark.parametrize(("result", "revision", "betas"), [(2.0, 2, 2.0), (None, 1, 1.0)])
def test_a_review_replaces_or_keeps(result, revision, betas):
    machine, draw = reviewed()
    assert machine.drawn(draw, drawn(result))
    assert machine.state is State.LOCKED and machine.revision == machine.chosen.revision == revision
    np.testing.assert_array_equal(machine.chosen.identity.betas, head(betas))
    assert not machine.admits(0.9, 2.0)  # and it is not asked again for the same


def test_a_draw_that_fails_is_wanted_again():
    machine, draw = reviewed()
    machine.failed(draw, 1.1)
    assert machine.request(1.1) is machine.request(2.05) is None, "not at once: it would fail the same way"
    again = machine.request(2.15)
    assert machine.state is State.REVIEWED and again.views == draw.views and again.seed != draw.seed
    new = IdentityMachine()
    feed(new, view(0.0))
    new.failed(new.request(0.0), 0.0)
    assert new.request(RETRY) is not None


@pytest.mark.parametrize("begin", [gathering, locked, lambda: reviewed()[0]])
def test_every_state_can_be_lost_and_found(begin):
    machine = begin()
    before = machine.state
    reference = machine.reference
    machine.lose(3.0)
    machine.lose(4.0)
    assert machine.state is State.LOST and machine.lost_since == 3.0
    assert machine.request(5.0) is None and not machine.admits(1.0, 5.0)
    machine.find()
    assert machine.state is (State.GATHERING if before is State.GATHERING else State.LOCKED)
    assert machine.revision == 1 and machine.chosen.revision == 1
    np.testing.assert_array_equal(machine.reference, reference)


def test_a_result_that_comes_after_the_loss_is_dropped():
    machine, draw = reviewed()
    machine.lose(2.0)
    assert not machine.drawn(draw, drawn(9.0))
    machine.find()
    assert not machine.drawn(draw, drawn(9.0))
    np.testing.assert_array_equal(machine.chosen.identity.betas, head(1.0))


def test_revisions_never_go_back_on_the_track_that_a_face_is_found_on():
    for above, revision in ((0, 1), (1, 2), (7, 8)):
        machine = locked()
        machine.lose(1.0)
        machine.find(above)
        assert machine.revision == machine.chosen.revision == revision


def test_a_face_is_recognised_by_its_best_views_most():
    machine = IdentityMachine()
    feed(machine, view(0.0, 0.9, who=0), view(0.2, 0.1, who=1))
    reference = machine.reference
    assert reference @ person(0) > reference @ person(1)
    np.testing.assert_allclose(reference, 0.9 * person(0) + 0.1 * person(1), atol=1e-9)
