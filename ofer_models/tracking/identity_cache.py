"""The identities of one camera: one for each track, and those of lost faces, to be given back to the same face.

Held in memory only. A face is recognised by the cosine of identity contexts, on good views, and only if it is clearly
more like the one than like anybody else known: when in doubt, a head is drawn anew.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

import numpy as np

from ofer_models.head.model import HeadModel, Identity
from ofer_models.tracking.identity_draws import DrawRunner
from ofer_models.tracking.identity_state import Draw, Drawn, IdentityMachine, State, View
from ofer_models.tracking.shape_blend import ShapeBlend

_log = logging.getLogger(__name__)

RECOGNISABLE = 0.3  # quality of a view from which its context tells who it is
# Occlusion up to which it does, and by which a view may be more covered than those it is compared with: a hand before
# the face changes the context as much as another face does.
COVERED, MORE_COVERED = 0.25, 0.1
MOST_LOST = 32  # faces out of sight that are remembered at most, the last ones: a camera may look at a street
CHECK_EVERY = 0.15  # s between looks at whether a track still shows the same face
STRIKES = 6  # points against it, in looks in a row, that make it somebody else's
KNOWN_ELSE, UNLIKE = 2, 1  # points of a look: clearly more like another known face; merely unlike its own
UNSURE_TIME = 1.0  # s for which a face that may be back is waited for to show itself, before it is drawn anew
LONG_DRAW = 30.0  # s after which one that is still at work is told: a draw takes a second or two
CLEARLY = 0.75  # of the distance (1 - cosine) to one face, which that to another must stay below


@dataclass(frozen=True)
class ShownHead:
    """The head that a track shows now. revision grows with each replacement; blend 0..1 tells how far the change to it
    has come, and `identity` is what is in between; score 0..1, and 0 for the mean head before the first draw."""

    identity: Identity
    revision: int
    score: float
    blend: float
    state: State


@dataclass
class _Track:
    machine: IdentityMachine
    blend: ShapeBlend | None = None
    revision: int = -1  # the last one shown
    strikes: int = 0
    checked: float = -np.inf  # stamps
    returned: float = np.inf


class IdentityCache:
    """Identities by track id. One thread calls it; draws may be done on another (see `identity_draws`)."""

    def __init__(
        self,
        draw: Callable[[Draw], Drawn],
        head: HeadModel,
        same: float,
        other: float,
        keep: float = 30.0,
        background: bool = False,
        seed: tuple[int, ...] = (0,),
    ) -> None:
        """same: least cosine of two views of one face; other: below it they are of two. keep: seconds for which a lost
        face is remembered. background: draws do not hold up `update`; a face shows the mean head until its first one.
        """
        self.keep = keep
        self.failures = 0  # draws that failed
        self.failure = ""  # why the last one did, until everything is forgotten
        self._failing: list[IdentityMachine] = []  # those in sight whose last draw failed
        self._head = head
        self._same, self._other = same, other
        self._runner = DrawRunner(draw, background)
        self._mean = head.identity(np.zeros(head.n_shape, np.float32))
        self.seed = seed  # of identities that are gathered from now on
        self.forget()

    def forget(self) -> None:
        """Drop everything about everybody, at once; tracks begin anew."""
        self._runner.clear()
        self.failure, self._failing = "", []
        self._tracks: dict[str, _Track] = {}
        self._lost: list[IdentityMachine] = []
        self._machines = 0

    def close(self) -> None:
        """Forget everybody, and draw nothing any more."""
        self.forget()
        self._runner.close()

    def reset(self, id: str) -> bool:
        """Gather the identity of this track anew; what it was is not kept. False when there is no such track."""
        track = self._tracks.get(id)
        if track is not None:
            track.machine = self._new_machine(track.revision)
        return track is not None

    def states(self) -> dict[str, State]:
        """What each track's identity is at."""
        return {id: track.machine.state for id, track in self._tracks.items()}

    @property
    def trouble(self) -> str:
        """What keeps faces from their heads at present, in one line, or ''. From any thread."""
        if self._runner.busy_for > LONG_DRAW:
            return f"an identity is being drawn for more than {LONG_DRAW:g} s: faces keep the head they have"
        return f"an identity could not be drawn: {self.failure}" if self._failing else ""

    @property
    def remembered(self) -> int:
        """How many faces out of sight are remembered."""
        return len(self._lost) + len(self._away())

    def wants(self, id: str, quality: float, stamp: float) -> bool:
        """Whether `update` should get a view of this track: it is new or back, the view may improve its identity, or
        it is time to look whether it is still the same face."""
        track = self._tracks.get(id)
        if track is None or track.machine.state is State.LOST or track.machine.admits(quality, stamp):
            return True
        return quality >= RECOGNISABLE and not 0 <= stamp - track.checked < CHECK_EVERY

    def update(
        self, tracked: Collection[str], visible: Collection[str], views: Mapping[str, View], stamp: float
    ) -> None:
        """After a frame: the ids of all tracks, those seen in it, and the views that were wanted.

        A draw that fails changes nothing: it is logged and counted, and asked for again a while later.
        """
        self._leave(tracked, visible, stamp)
        for id in visible:
            if id not in self._tracks:
                self._tracks[id] = _Track(self._new_machine(-1))
        doubted = [id for id, view in views.items() if self._doubt(id, view)]
        for id in doubted:
            if self._tracks[id].strikes >= STRIKES:
                self._release(self._tracks[id], stamp)
        for id, view in views.items():
            track = self._tracks[id]
            if track.machine.state is State.GATHERING:
                self._recognise(id, view)
            if track.machine.admits(view.quality, stamp) and (id not in doubted or not track.machine.views):
                track.machine.offer(view)
        self._withdraw()
        self._collect(stamp)
        for id in visible:
            machine = self._tracks[id].machine
            while (draw := machine.request(stamp)) is not None:
                self._runner.submit(machine, draw)
                self._collect(stamp)

    def shown(self, id: str, stamp: float) -> ShownHead:
        """The head that a track seen in the last `update` shows at `stamp`."""
        track, machine = self._tracks[id], self._tracks[id].machine
        target = machine.chosen.identity if machine.chosen else self._mean
        if track.blend is None:
            track.blend = ShapeBlend(target.betas)
        elif track.blend.target is not target.betas:
            track.blend.to(target.betas, stamp)
        track.revision = machine.revision
        betas, part = track.blend.at(stamp)
        identity = target if part == 1 else self._head.identity(betas)
        score = machine.chosen.score if machine.chosen else 0.0
        return ShownHead(identity, machine.revision, score, part, machine.state)

    def _new_machine(self, shown: int) -> IdentityMachine:
        """For a track that has shown revisions up to `shown`; the mean head before the first draw counts as one."""
        self._machines += 1
        return IdentityMachine((*self.seed, self._machines), shown + 1)

    def _leave(self, tracked: Collection[str], visible: Collection[str], stamp: float) -> None:
        """Lose who is out of sight, remember whom the tracker gave up, forget who is away for too long."""
        for id in self._tracks.keys() - visible:
            track = self._tracks[id]
            track.machine.lose(stamp)
            track.returned, track.strikes = np.inf, 0
            if id not in tracked:
                self._remember(self._tracks.pop(id).machine)
        self._lost = [machine for machine in self._lost if 0 <= stamp - machine.lost_since <= self.keep]

    def _doubt(self, id: str, view: View) -> bool:
        """Look whether a track shows the face that it did; True when not, or not surely."""
        track = self._tracks[id]
        machine, reference = track.machine, track.machine.reference
        if machine.state is State.LOST:
            return self._welcome(id, view)
        track.checked = view.stamp
        if reference is None or not _tells(view, machine):
            return False
        own = cosine(view.context, reference)
        points = KNOWN_ELSE if self._clearly_else(own, view, [machine]) else UNLIKE if own < self._other else 0
        track.strikes = track.strikes + points if points else 0
        return points > 0

    def _welcome(self, id: str, view: View) -> bool:
        """A track is seen again after a loss. Place and time speak for the same face; its context must as well."""
        track, machine = self._tracks[id], self._tracks[id].machine
        track.returned = min(track.returned, view.stamp)
        if machine.chosen is None or machine.reference is None or view.stamp - track.returned > UNSURE_TIME:
            track.strikes = STRIKES
        elif _tells(view, machine):
            own = cosine(view.context, machine.reference)
            if own >= self._same and not self._clearly_else(own, view, [machine]):
                machine.find()
                track.strikes = 0
                return False
            if own < self._other:
                track.strikes = STRIKES
            elif not 0 <= view.stamp - track.checked < CHECK_EVERY:
                track.strikes += KNOWN_ELSE
                track.checked = view.stamp
        return True

    def _clearly_else(self, own: float, view: View, mine: Collection[IdentityMachine]) -> bool:
        """Whether anybody known but `mine` is the same as, and much more like, this view than `own`, a cosine."""
        best = max((cosine(view.context, known) for known in self._references(mine)), default=-1.0)
        return best >= self._same and 1 - best < CLEARLY * (1 - own)

    def _references(self, without: Collection[IdentityMachine]) -> list[np.ndarray]:
        machines = [*(track.machine for track in self._tracks.values()), *self._lost]
        return [m.reference for m in machines if m.reference is not None and m not in without]

    def _away(self) -> list[str]:
        return [id for id, track in self._tracks.items() if track.machine.state is State.LOST and track.machine.chosen]

    def _recognise(self, id: str, view: View) -> None:
        """Give a track that has no settled identity one of those out of sight, if it is surely the same face."""
        track = self._tracks[id]
        absent = [*self._lost, *(self._tracks[other].machine for other in self._away())]
        absent = [machine for machine in absent if machine.reference is not None]
        if not absent or view.quality < RECOGNISABLE or view.occlusion > COVERED:
            return
        likeness = [cosine(view.context, machine.reference) for machine in absent]
        best = int(np.argmax(likeness))
        found = absent[best]
        rivals = [cosine(view.context, known) for known in self._references([found, track.machine])]
        if likeness[best] < self._same or 1 - likeness[best] >= CLEARLY * (1 - max(rivals, default=-1.0)):
            return
        self._lost = [machine for machine in self._lost if machine is not found]
        for other in self._tracks.values():
            if other.machine is found:
                other.machine = self._new_machine(other.revision)
        found.find(track.revision)
        track.machine, track.strikes = found, 0

    def _release(self, track: _Track, stamp: float) -> None:
        """The track shows somebody else now: remember whom it showed and begin anew."""
        track.machine.lose(stamp)
        self._remember(track.machine)
        track.machine, track.strikes, track.blend = self._new_machine(track.revision), 0, None

    def _remember(self, machine: IdentityMachine) -> None:
        if machine.chosen is not None:
            self._lost = [*self._lost, machine][-MOST_LOST:]

    def _withdraw(self) -> None:
        """Nobody waits for the draws of those who are out of sight, reset or recognised since."""
        machines = [track.machine for track in self._tracks.values()]
        self._runner.withdraw(lambda job: job.machine not in machines or not job.machine.awaits(job.draw))
        seen = [machine for machine in machines if machine.state is not State.LOST]
        self._failing = [machine for machine in self._failing if machine in seen]

    def _collect(self, stamp: float) -> None:
        for machine, draw, done in self._runner.finished():
            error = done.exception()
            known = self.failure if self._failing else ""
            self._failing = [other for other in self._failing if other is not machine]
            if error is None:
                machine.drawn(draw, done.result())
                continue
            machine.failed(draw, stamp)
            self._failing.append(machine)
            self.failures += 1
            self.failure = f"{type(error).__name__}: {error}"
            if self.failure != known:  # said once
                _log.warning("an identity could not be drawn: %s", self.failure)


def _tells(view: View, machine: IdentityMachine) -> bool:
    """Whether a view's context may be compared with those of a face."""
    return view.quality >= RECOGNISABLE and view.occlusion <= max(COVERED, machine.covered + MORE_COVERED)


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    """Cosine of the angle between two vectors (C,)."""
    return float(a @ b / max(float(np.linalg.norm(a) * np.linalg.norm(b)), 1e-12))
