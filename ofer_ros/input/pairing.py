"""Images together with the CameraInfo of the same moment, for users who ask for it (parameter `sync`).

message_filters does it where it is installed; where it is not, `Matcher` makes the same pairs.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Protocol

from ofer_ros.base.geometry import stamp_key

try:
    import message_filters
except ImportError:  # not among the wheels; ros-<distribution>-message-filters has it
    message_filters = None

QUEUE = 10  # messages of each topic that wait for their partner
# A stamp older than the newest by more than this means that time has begun anew (a bag played again).
_JUMP_NS = 1_000_000_000

Pair = Callable[[Any, Any], None]


class Synchronizer(Protocol):
    """What takes two streams of stamped messages and calls back with pairs."""

    def add_image(self, image: Any) -> None: ...

    def add_info(self, info: Any) -> None: ...


class Matcher:
    """Pairs two streams by stamp, as message_filters' Python synchronizers do.

    slop (seconds) 0: equal stamps. Else a message is paired, when it arrives, with the nearest waiting one less than
    `slop` away. Of each stream the newest QUEUE messages wait.
    """

    def __init__(self, slop: float, paired: Pair) -> None:
        self._slop = round(slop * 1e9)
        self._paired = paired
        self._images: dict[int, Any] = {}
        self._infos: dict[int, Any] = {}

    def add_image(self, image: Any) -> None:
        partner = self._match(image, self._images, self._infos)
        if partner is not None:
            self._paired(image, partner)

    def add_info(self, info: Any) -> None:
        partner = self._match(info, self._infos, self._images)
        if partner is not None:
            self._paired(partner, info)

    def _match(self, message: Any, own: dict[int, Any], others: dict[int, Any]) -> Any | None:
        stamp = stamp_key(message.header.stamp)
        own[stamp] = message
        while len(own) > QUEUE:
            del own[min(own)]
        nearest = min(others, key=lambda other: abs(other - stamp), default=None)
        if stamp not in own or nearest is None:
            return None
        distance = abs(nearest - stamp)
        if distance and distance >= self._slop:
            return None
        del own[stamp]
        return others.pop(nearest)


class MessageFilters:
    """The same by message_filters itself."""

    def __init__(self, slop: float, paired: Pair) -> None:
        self._images, self._infos = message_filters.SimpleFilter(), message_filters.SimpleFilter()
        streams = [self._images, self._infos]
        if slop:
            synchronizer = message_filters.ApproximateTimeSynchronizer(streams, QUEUE, slop)
        else:
            synchronizer = message_filters.TimeSynchronizer(streams, QUEUE)
        synchronizer.registerCallback(paired)

    def add_image(self, image: Any) -> None:
        self._images.signalMessage(image)

    def add_info(self, info: Any) -> None:
        self._infos.signalMessage(info)


class Pairing:
    """The pairing of one image topic with the camera's CameraInfo; begins anew when time jumps back."""

    def __init__(self, slop: float, paired: Pair) -> None:
        """slop: seconds, 0 for equal stamps. paired(image, info) is called for each pair."""
        self._make = Matcher if message_filters is None else MessageFilters
        self._slop = slop
        self._paired = paired
        self.last_pair = time.monotonic()
        self._start()

    def _start(self) -> None:
        self._newest = 0
        self._synchronizer: Synchronizer = self._make(self._slop, self._found)

    def _found(self, image: Any, info: Any) -> None:
        self.last_pair = time.monotonic()
        self._paired(image, info)

    def add_image(self, image: Any) -> None:
        self._notice(image)
        self._synchronizer.add_image(image)

    def add_info(self, info: Any) -> None:
        self._notice(info)
        self._synchronizer.add_info(info)

    def _notice(self, message: Any) -> None:
        stamp = stamp_key(message.header.stamp)
        if stamp < self._newest - _JUMP_NS:  # what waits is newer than all that comes and would push it out
            self._start()
        self._newest = max(self._newest, stamp)
