"""What must hold during a soak: no marker outlives its face, no frame is lost uncounted, and memory stays. No ROS in
here."""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np

ADD, DELETE, DELETE_ALL = 0, 2, 3  # visualization_msgs/Marker
# A marker that messages no longer mention for so long (s) and that nobody deleted is stale. Deletions are repeated in
# thirty messages, for readers that miss one.
STALE_AFTER = 1.5
# A reader that hears nothing for so long (s) may have missed every repetition; what it shows runs out of its lifetime.
MISSED_AFTER = 0.9
# Frames of an active node that are taken and not done: one waits, one is looked at, one is handed over, one is made.
AT_WORK = 4
_ENDS = ("frames_processed", "frames_dropped", "bad_images", "failures")


class _Reader:
    """Steps through serialised CDR, which aligns behind its first four bytes."""

    def __init__(self, data: bytes) -> None:
        self._data = memoryview(data)[4:]
        self._at = 0

    def skip(self, size: int, count: int = 1) -> None:
        """Over `count` numbers of `size` bytes."""
        if count:
            self._at += -self._at % size + size * count

    def integer(self) -> int:
        self.skip(4)
        return struct.unpack_from("<i", self._data, self._at - 4)[0]

    def text(self) -> str:
        length = self.integer()
        self._at += length
        return bytes(self._data[self._at - length : self._at - 1]).decode()


def marker_heads(data: bytes) -> list[tuple[str, int, int, float]]:
    """(namespace, id, action, lifetime in s) of each marker of a serialised visualization_msgs/MarkerArray.

    Meshes of ten thousand triangles take ROS's Python a second to unpack; a reader that slow misses what it is to see.
    """
    reader, found = _Reader(data), []
    for _ in range(reader.integer()):
        reader.skip(4, 2)
        reader.text()  # frame_id
        namespace, number, _, action = reader.text(), reader.integer(), reader.integer(), reader.integer()
        reader.skip(8, 10)  # pose, scale
        reader.skip(4, 4)  # color
        lifetime = reader.integer() + 1e-9 * reader.integer()
        reader.skip(1)  # frame_locked
        reader.skip(8, 3 * reader.integer())  # points
        reader.skip(4, 4 * reader.integer())  # colors
        reader.text()  # texture_resource
        reader.skip(4, 2)
        reader.text(), reader.text()  # texture: frame_id, format
        reader.skip(1, reader.integer())
        reader.skip(4, 2 * reader.integer())  # uv_coordinates
        reader.text(), reader.text(), reader.text()  # text, mesh_resource, mesh_file
        reader.skip(1, reader.integer())
        reader.skip(1)  # mesh_use_embedded_materials
        found.append((namespace, number, action, lifetime))
    return found


class Scene3D:
    """The markers a viewer would show: RViz in so far as deletion goes."""

    def __init__(self) -> None:
        self.shown: dict[tuple[str, int], float] = {}  # when last said
        self.stale: Counter[str] = Counter()
        self._cleared = False
        self._last = float("inf")

    def message(self, markers: Iterable[tuple[str, int, int, float]], now: float) -> None:
        """One MarkerArray at time `now` (seconds): (namespace, id, action, lifetime in seconds) of each marker."""
        self._cleared = False
        if now - self._last > MISSED_AFTER:
            self.pause()
        self._last = now
        for namespace, number, action, lifetime in markers:
            key = (namespace, number)
            if action == DELETE_ALL:
                self.shown.clear()
                self._cleared = True
            elif action == DELETE:
                self.shown.pop(key, None)
            else:
                self.shown[key] = now
                if not lifetime > 0:
                    self.stale[f"{namespace} without a lifetime"] += 1
        for key in [key for key, said in self.shown.items() if now - said > STALE_AFTER]:
            self.stale[f"{key[0]} {key[1]}"] += 1
            del self.shown[key]

    def pause(self) -> None:
        """No messages come for a while: what is shown runs out of its lifetime, and that is right."""
        self.shown.clear()

    @property
    def cleared(self) -> bool:
        """Whether the last message took everything away."""
        return self._cleared and not self.shown


def unaccounted(values: Mapping[str, str]) -> int:
    """How many frames a node's diagnostics leave open: taken, and neither finished nor given up."""
    return int(values["frames_in"]) - sum(int(values[name]) for name in _ENDS)


@dataclass
class Memory:
    """Resident memory over time: growth counts from `settled` seconds after the start."""

    settled: float
    samples: list[tuple[float, float]] = field(default_factory=list)  # (seconds since the start, MB)

    def add(self, seconds: float, megabytes: float) -> None:
        if megabytes > 0:
            self.samples.append((seconds, megabytes))

    @property
    def growth(self) -> float:
        """MB from settling to the end, by a straight line through the medians of ten stretches of that time; 0 for
        less than ten samples.

        What a node holds goes up and down by tens of MB with what it is asked to publish; a leak goes one way.
        """
        late = np.array([sample for sample in self.samples if sample[0] >= self.settled])
        if len(late) < 10:
            return 0.0
        middles = np.array([np.median(stretch, axis=0) for stretch in np.array_split(late, 10)])
        slope = np.polyfit(*middles.T, 1)[0]
        return float(slope * (late[-1, 0] - late[0, 0]))

    def summary(self) -> dict[str, object]:
        values = [megabytes for _, megabytes in self.samples] or [0.0]
        return {
            "first_mb": values[0], "last_mb": values[-1], "largest_mb": max(values),
            "growth_mb": round(self.growth, 1), "counted_from_s": self.settled,
            "every_10_s_mb": [megabytes for _, megabytes in self.samples[::10]],
        }  # fmt: skip
