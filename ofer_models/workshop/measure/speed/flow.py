"""How steadily hypotheses flow: their jitter on a still face, with noise that is frozen, drifts, or is drawn anew.

    python -m ofer_models.workshop.measure.speed.flow [--frames 90] [--json FILE] [--figure docs/flow.png]

The face is a photograph (scikit-image's astronaut, NASA, public domain) before a camera that trembles by a fifth of a
pixel and adds sensor noise. Jitter: root mean square way in mm that a landmark of hypothesis k makes from one frame to
the next, in the head frame, so that neither pose nor identity has a part in it. Spread: root mean square distance of
the hypotheses from their mean, within a frame.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from ofer_models.bundle.manifest import Bundle, default_bundle
from ofer_models.head.decoders import LandmarkDecoder
from ofer_models.head.landmark_sets import tracked_landmarks
from ofer_models.pipeline import FacePipeline
from ofer_models.tracking.spread import spread_mm

RATE = 30.0  # Hz
DRIFTS = {"frozen": 0.0, "drift 0.1": 0.1, "drift 0.5": 0.5, "drift 1": 1.0, "independent": math.inf}
_WARM_UP = 15  # frames, after which the identity is settled


@dataclass(frozen=True)
class Flow:
    """jitter and spread in mm; openings (T, H): every hypothesis' distance between the lips in mm, over the frames."""

    drift: float
    jitter: float
    spread: float
    openings: np.ndarray


def still_frame(number: int) -> np.ndarray:
    """Frame (480, 640, 3) uint8 RGB of a video of a face that does not move."""
    from skimage.data import astronaut

    rng = np.random.default_rng(number)
    matrix = cv2.getRotationMatrix2D((224, 124), 0, 1.5)
    matrix[:, 2] += np.array([320 - 224, 240 - 124]) + rng.normal(0, 0.2, 2)
    picture = cv2.warpAffine(astronaut(), matrix, (640, 480))
    return np.clip(picture + rng.normal(0, 3, picture.shape), 0, 255).astype(np.uint8)


def measure(bundle: Bundle, drift: float, frames: int, seed: int = 0) -> Flow:
    """Run the pipeline with this drift (1/s; infinite: new noise in every frame) over so many frames."""
    pipeline = FacePipeline(bundle, drift=drift, seed=seed)
    faces = [pipeline(still_frame(n), n / RATE)[0] for n in range(_WARM_UP + frames)][_WARM_UP:]
    decoder = LandmarkDecoder(bundle.head, tracked_landmarks(bundle.head)[0])
    head = bundle.head.identity(faces[-1].shape)
    expressions, jaws = (np.stack([getattr(face, name) for face in faces]) for name in ("expressions", "jaws"))
    landmarks = decoder.of_faces([head] * len(faces), expressions, jaws).astype(np.float64)  # (T, H, L, 3)
    ways = np.diff(landmarks, axis=0)
    lips = landmarks[:, :, 13] - landmarks[:, :, 14] if landmarks.shape[2] > 14 else landmarks[:, :, 0] * 0
    return Flow(
        drift,
        1000 * float(np.sqrt((ways**2).sum(-1).mean())),
        float(np.sqrt((spread_mm(landmarks) ** 2).mean())),
        1000 * np.linalg.norm(lips, axis=-1),
    )


def draw(flows: dict[str, Flow], path: Path) -> None:
    """A panel for each kind of noise: all hypotheses' mouth openings over time."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, len(flows), figsize=(3.2 * len(flows), 2.9), sharey=True, layout="constrained")
    for axis, (name, flow) in zip(axes, flows.items(), strict=True):
        seconds = np.arange(len(flow.openings)) / RATE
        axis.plot(seconds, flow.openings, linewidth=0.8)
        axis.set_title(f"{name}\njitter {flow.jitter:.2f}, spread {flow.spread:.2f} mm", fontsize=9)
        axis.set_xlabel("s")
    axes[0].set_ylabel("lips apart, mm")
    figure.savefig(path, dpi=110)
    plt.close(figure)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bundle", type=Path, default=None, help="folder of a bundle (default: the open one)")
    parser.add_argument("--frames", type=int, default=90, help="frames of each run (default: 90)")
    parser.add_argument("--json", type=Path, help="write the figures here")
    parser.add_argument("--figure", type=Path, help="draw all hypotheses over time into this PNG")
    options = parser.parse_args(arguments)
    bundle = Bundle.load(options.bundle or default_bundle())
    flows = {name: measure(bundle, drift, options.frames) for name, drift in DRIFTS.items()}
    full = flows["independent"].jitter
    for name, flow in flows.items():
        print(f"{name:12} jitter {flow.jitter:.3f} mm ({flow.jitter / full:.2f}), spread {flow.spread:.3f} mm")
    if options.figure:
        draw(flows, options.figure)
    if options.json:
        figures = {name: {"jitter_mm": flow.jitter, "spread_mm": flow.spread} for name, flow in flows.items()}
        options.json.write_text(json.dumps({"bundle": f"{bundle.name} {bundle.version}", "flow": figures}, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
