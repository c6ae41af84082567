"""How many images are lost on their way to this node, which DDS itself tells nobody.

A large image is lost whole where a buffer of the transport is too small; its CameraInfo, a few hundred bytes, arrives.
"""

from __future__ import annotations

import threading
from collections import deque

import numpy as np

_SETTLED = 0.5  # seconds after which an image whose CameraInfo is here will not come any more
_KEPT = 4.0  # seconds that stamps are known for
_WINDOW = 5.0  # seconds that the rates look back on
_WARN_SHARE, _WARN_LEAST = 0.1, 5  # lost images, as a share and in all, within these seconds that are worth a warning
_GAPS, _GAPS_LEAST = 90, 10  # between stamps, that the camera's period is learnt from
_REGULAR = 0.12  # mean distance of the gaps from whole periods, in periods, of a camera with a steady rate
_LONGEST = 30  # periods; a camera that was away for longer has paused, and nothing was lost
_BEGUN_ANEW = 1_000_000_000  # ns that stamps go back by where a bag is played again


class ImageLosses:
    """Compares the images that arrive with those that the camera sent. Times are seconds of any steady clock. May be
    told and asked by different threads.

    Where CameraInfos come with the images' stamps, each one without an image is a lost image. Else, where the stamps of
    the images are regular, the gaps between them tell: a gap of three periods has lost two. Of a camera without both,
    or one whose stamps stand still, nothing is claimed.
    """

    def __init__(self) -> None:
        self.lost = 0  # images in all
        self._lock = threading.Lock()
        self._images: dict[int, float] = {}  # stamp (ns) -> when it arrived
        self._others: dict[int, float] = {}  # of CameraInfos, and of the same images in another transport
        self._missing: dict[int, int] = {}  # stamp of an image -> steps of its gap in ns
        self._gaps: deque[int] = deque(maxlen=_GAPS)
        self._newest = 0
        self._repeated = False
        self._judged: float | None = None  # what arrived until then is in the tallies
        self._tallies: deque[tuple[float, float, int, int]] = deque()  # from, to, images seen and lost

    def image(self, stamp: int, now: float) -> None:
        """An image with this stamp (ns) arrived."""
        with self._lock:
            self._repeated |= stamp in self._images
            if stamp < self._newest - _BEGUN_ANEW:
                self._newest = 0
            if 0 < self._newest < stamp:
                self._missing[stamp] = stamp - self._newest
                self._gaps.append(stamp - self._newest)
            self._newest = max(stamp, self._newest)
            self._images[stamp] = now

    def beside(self, stamp: int, now: float) -> None:
        """Something that the camera sends beside each image arrived: its CameraInfo, or the image in another form."""
        with self._lock:
            self._others[stamp] = now

    def check(self, now: float) -> None:
        """Count what has settled since the last check. To be called about once a second."""
        with self._lock:
            self._check(now)

    def _check(self, now: float) -> None:
        until = now - _SETTLED
        since = until if self._judged is None else self._judged
        self._judged = until
        seen = [stamp for stamp, at in self._images.items() if since < at <= until]
        beside = [stamp for stamp, at in self._others.items() if since < at <= until]
        lost = self._count(seen, beside)
        self.lost += lost
        self._tallies.append((since, until, len(seen), lost))
        while self._tallies[0][1] <= until - _WINDOW:
            self._tallies.popleft()
        for known in (self._images, self._others):
            for stamp in [stamp for stamp, at in known.items() if at <= now - _KEPT]:
                del known[stamp]
        self._missing = {stamp: gap for stamp, gap in self._missing.items() if stamp in self._images}
        self._repeated = False

    def problem(self) -> str:
        """How many of how many images a second are lost, where that is worth a warning, else ''."""
        seen, lost = (sum(tally[column] for tally in self._tallies) for column in (2, 3))
        if lost < _WARN_LEAST or lost < _WARN_SHARE * (seen + lost):
            return ""
        span = self._tallies[-1][1] - self._tallies[0][0]
        return f"{lost / span:.0f} of {(seen + lost) / span:.0f} images a second are lost before this node"

    def _count(self, seen: list[int], beside: list[int]) -> int:
        """How many images are missing among those that have settled."""
        if self._repeated:  # stamps that stand still tell nothing
            return 0
        if 2 * sum(stamp in self._others for stamp in seen) > len(seen):
            return sum(stamp not in self._images for stamp in beside)
        period = self._period()
        steps = [round(self._missing.get(stamp, 0) / period) for stamp in seen] if period else []
        return sum(count - 1 for count in steps if 1 < count <= _LONGEST)

    def _period(self) -> float:
        """The camera's period in ns; 0 where its stamps are not regular enough to know one."""
        if len(self._gaps) < _GAPS_LEAST:
            return 0.0
        gaps = np.array(self._gaps, float)
        single = gaps[gaps < 1.5 * np.quantile(gaps, 0.1)]
        period = float(np.median(single))
        steps = gaps[gaps < _LONGEST * period] / period
        regular = np.abs(steps - np.round(steps)).mean() < _REGULAR
        return period if regular and len(single) >= len(gaps) / 5 else 0.0
