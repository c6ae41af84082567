"""`ofer animate`: one face of a video, a folder of pictures or a bag as an animated head, a GLB with morph targets.

    python -m ofer_ros.demo.animate video.mp4 --out head.glb
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import cv2
import numpy as np
import typer
from rich.console import Console
from rich.progress import Progress, TextColumn, TimeElapsedColumn

from ofer_models.avatar.arkit_map import arkit_map
from ofer_models.avatar.performance import Performance, check_hypothesis
from ofer_models.avatar.performer import Performer, SeenFace
from ofer_models.files.refusal import one_line
from ofer_models.perception.intrinsics import Intrinsics
from ofer_models.pipeline import FacePipeline
from ofer_ros.base.bundles import bundle_folder
from ofer_ros.camera.source_frame import SourceFrame
from ofer_ros.camera.sources import open_source
from ofer_ros.demo.processes import HELP, DemoError, reported

_LARGEST = 1280  # px, as camera_node's max_side

app = typer.Typer(add_completion=False)


def performances(
    frames: Iterator[tuple[np.ndarray, float]], pipeline: FacePipeline, performer: Performer
) -> Iterator[tuple[Performance | None, np.ndarray | None]]:
    """For each frame (rgb (H, W, 3) uint8, seconds) the performance and betas (S,) of the face that is followed, or
    None where it is not there."""
    for rgb, stamp in frames:
        height, width = rgb.shape[:2]
        faces = {face.id: face for face in pipeline(rgb, stamp, Intrinsics.from_field_of_view(width, height))}
        acted = performer([_seen(face) for face in faces.values()], stamp)
        yield acted, None if acted is None else faces[performer.followed].shape


def animate(source: str, out: Path, bundle: str, face: str, hypothesis: str, rate: float) -> tuple[int, int, float]:
    """Write the GLB; frames with the face, all frames, and seconds.

    Raises DemoError, ValueError or OSError in one line; what cannot end well is refused before the first frame.
    """
    try:
        from ofer_models.avatar.gltf import check_units, write_glb
    except ImportError:
        raise DemoError("animated heads need pygltflib: pip install pygltflib") from None
    folder = next(path for path in out.absolute().parents if path.exists())
    if out.is_dir() or not folder.is_dir() or not os.access(folder, os.W_OK):
        raise DemoError(f"{out} cannot be written: give a file in a folder that is yours")
    frames = open_source(source, rate, hold=1 / rate, max_side=_LARGEST)
    pipeline = FacePipeline(bundle_folder(bundle))
    check_units(pipeline.head)
    check_hypothesis(hypothesis, pipeline.hypotheses)
    performer = Performer(arkit_map(pipeline.head), face, hypothesis)
    kept: list[Performance] = []
    betas, count = None, 0
    columns = (TextColumn("{task.description}"), TextColumn("{task.completed} frames"), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(f"animating {Path(source).name}", total=None)
        for acted, shape in performances(_stamped(frames, rate), pipeline, performer):
            count += 1
            bar.advance(task)
            if acted is not None and (not kept or acted.stamp > kept[-1].stamp):
                kept.append(acted)
                betas = shape  # the last: the identity is best known at the end
    if betas is None:
        raise DemoError(f"no face{f' {face!r}' * bool(face)} in the {count} frames of {source}")
    write_glb(out, pipeline.head, betas, kept)
    return len(kept), count, kept[-1].stamp - kept[0].stamp


def _stamped(frames: Iterator[SourceFrame], rate: float) -> Iterator[tuple[np.ndarray, float]]:
    for number, frame in enumerate(frames):
        if frame.problem:
            continue
        own = frame.recorded.stamp / 1e9 if frame.recorded else frame.time
        stamp = number / rate if own is None else own
        yield cv2.cvtColor(frame.bgr, cv2.COLOR_BGR2RGB), stamp


def _seen(face) -> SeenFace:
    return SeenFace(
        face.id, face.roi[2] * face.roi[3], face.expressions, face.jaws, face.scores, face.selected, face.rotation,
        face.translation,
    )  # fmt: skip


@app.command(
    help="One face of a video, a folder of pictures or a bag as an animated head (GLB with ARKit's shapes).",
    context_settings=HELP,
)
def main(
    source: Annotated[str, typer.Argument(help="As of `ofer demo`; a webcam has no end.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The .glb file.")] = Path("head.glb"),
    bundle: Annotated[str, typer.Option(help="Name in engines/ or folder; its head needs ARKit's units.")] = "open",
    face: Annotated[str, typer.Option(help="Id of the face to follow; the largest by default.")] = "",
    hypothesis: Annotated[str, typer.Option(help="mean, selected, or the number of one.")] = "mean",
    rate: Annotated[float, typer.Option(min=1, max=240, help="Hz, of sources that state none.")] = 30.0,
) -> None:
    with reported("animate"):
        if source.isdigit():
            raise DemoError("a webcam has no end: record a video or a bag first")
        try:
            kept, count, seconds = animate(source, out, bundle, face, hypothesis, rate)
        except (ValueError, OSError) as error:
            raise DemoError(one_line(error)) from None
        typer.echo(f"{out}: {kept} of {count} frames with the face, {seconds:.1f} s")


if __name__ == "__main__":
    app(prog_name="ofer animate")
