"""`ofer bench frame_pipeline`: frames a second from picture to faces and meshes, without ROS, of this checkout and of
another one in turn.

Each checkout runs in a process of its own, on the same pixels; blocks of frames alternate between them, so that what
else the machine does weighs on both alike and ratios hold.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from ofer_models.workshop.errors import EvaluationError
from ofer_models.workshop.measure.speed.bench import describe_host

FACES = (1, 2, 4, 8)
_WIDTH, _HEIGHT, _LOOP = 640, 480, 60  # px; frames after which the pictures come again
_COLUMNS = {1: 1, 2: 2, 4: 2, 8: 4}
_FACE_CENTRE, _FACE_HEIGHT = np.array([225.0, 123.0]), 108.0  # px, in the photograph
_SHARE = 0.55  # of a face in its tile
_WARM_UP, _BLOCK = 45, 30  # frames
_FIGURES = ("frame_ms", "after_ms", "cpu_ms")
_PROBE = Path(__file__).with_name("frame_probe.py")
_HERE = Path(__file__).parents[4]


def pictures(faces: int) -> np.ndarray:
    """A loop of frames (60, 480, 640, 3) uint8 RGB of so many faces, each of which sways in a tile of its own."""
    from skimage.data import astronaut

    photograph, columns = astronaut(), _COLUMNS[faces]
    width, height = _WIDTH // columns, _HEIGHT // (faces // columns)
    zoom = _SHARE * min(height, 1.3 * width) / _FACE_HEIGHT
    stack = np.empty((_LOOP, _HEIGHT, _WIDTH, 3), np.uint8)
    for number, frame in enumerate(stack):
        for tile in range(faces):
            phase = 2 * np.pi * (number / _LOOP + tile / faces)
            matrix = cv2.getRotationMatrix2D(_FACE_CENTRE, 8 * np.sin(phase), zoom * (1 + 0.05 * np.cos(phase)))
            shift = np.array([width / 2 + 0.05 * width * np.cos(phase), height / 2 + 0.05 * height * np.sin(phase)])
            matrix[:, 2] += shift - _FACE_CENTRE
            x, y = width * (tile % columns), height * (tile // columns)
            frame[y : y + height, x : x + width] = cv2.warpAffine(
                photograph, matrix, (width, height), borderMode=cv2.BORDER_REPLICATE
            )
    return stack


class Checkout:
    """A process that runs one checkout's pipeline."""

    def __init__(self, folder: Path) -> None:
        """folder: holds `ofer_models`, and its own Python in .venv where it has one. Raises EvaluationError."""
        if not (folder / "ofer_models" / "pipeline.py").is_file():
            raise EvaluationError(f"{folder} is no checkout of this repository: it has no ofer_models/pipeline.py")
        own = folder / ".venv" / "bin" / "python"
        self.folder = folder
        self._said = tempfile.TemporaryFile("w+")  # not a pipe, which would have to be read meanwhile
        self._process = subprocess.Popen(
            [str(own) if own.is_file() else sys.executable, "-c", _PROBE.read_text()], cwd=folder,
            env=os.environ | {"OPENBLAS_NUM_THREADS": "1", "PYTHONPATH": str(folder)}, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._said,
        )  # fmt: skip

    def run(self, **order: object) -> dict[str, Any]:
        """The answer to an order, see `frame_probe`. Raises EvaluationError when the process ends instead."""
        try:
            self._process.stdin.write(json.dumps(order) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            self._process.wait()
            self._said.seek(0)
            said = self._said.read().strip().splitlines() or ["it said nothing"]
            raise EvaluationError(f"the pipeline of {self.folder} ended: {said[-1]}")
        return json.loads(line)

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.communicate()
        self._said.close()


@contextmanager
def _checkouts(folders: dict[str, Path]) -> Iterator[dict[str, Checkout]]:
    with ExitStack() as opened:
        sides = {}
        for name, folder in folders.items():
            sides[name] = Checkout(folder)
            opened.callback(sides[name].close)
        yield sides


def run(
    beside: Path | None = None,
    frames: int = 180,
    faces: tuple[int, ...] = FACES,
    say: Callable[[str], None] = lambda line: None,
    sources: Callable[[int], np.ndarray] = pictures,
    regressor: bool = False,
) -> dict[str, Any]:
    """`frame_pipeline`: `here` and `beside` -> number of faces -> frames_per_second one after the other,
    stream_per_second as the node runs them (on two threads), found, peak_mb, and of frame_ms, after_ms (all after
    finding faces) and cpu_ms each `_p50` and `_p95`; `ratio` -> number of faces -> here by beside.

    frames: of each number of faces, on each side. regressor: as a side of its own, this checkout with that method, and
    `regressor_ratio`, that side by here. Raises EvaluationError.
    """
    folders = {"here": _HERE} | ({"beside": beside.resolve()} if beside else {})
    folders |= {"regressor": _HERE} if regressor else {}
    settings = {"regressor": {"method": "regressor"}}
    figures: dict[str, dict[str, Any]] = {name: {} for name in folders}
    with tempfile.TemporaryDirectory() as folder, _checkouts(folders) as sides:
        for count in faces:
            say(f"{count} face{'s' * (count > 1)}")
            stack = Path(folder) / "frames.npy"
            np.save(stack, sources(count))
            answers: dict[str, list[dict[str, Any]]] = {name: [] for name in sides}
            for block in range(max(frames // _BLOCK, 1)):
                for name, side in sides.items():
                    order = {"faces": count, "stack": str(stack), "frames": min(frames, _BLOCK)}
                    order["settings"] = settings.get(name, {})
                    answers[name].append(side.run(**order, warm_up=_WARM_UP if block == 0 else 2))
            for name, found in answers.items():
                figures[name][str(count)] = _summary(found)
    result: dict[str, Any] = {"machine": describe_host(), "frame_pipeline": figures}
    if beside:
        result["beside"] = str(folders["beside"])
        figures["ratio"] = _ratio(figures["here"], figures["beside"])
    if regressor:
        figures["regressor_ratio"] = _ratio(figures["regressor"], figures["here"])
    return result


def _ratio(one: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    return {
        count: {key: value / other[count][key] for key, value in row.items() if key != "found"}
        for count, row in one.items()
    }


def _summary(answers: list[dict[str, Any]]) -> dict[str, float]:
    """Figures of the frames of all blocks."""
    row = {"found": statistics.fmean(n for answer in answers for n in answer["found"])}
    for name in _FIGURES:
        values = [ms for answer in answers for ms in answer[name]]
        row |= {f"{name}_p{percent}": float(np.percentile(values, percent)) for percent in (50, 95)}
        if name == "frame_ms":
            row["frames_per_second"] = 1000 / statistics.fmean(values)
    streamed = sum(len(answer["found"]) for answer in answers) / sum(answer["stream_s"] for answer in answers)
    return row | {"stream_per_second": streamed, "peak_mb": answers[-1]["peak_mb"]}
