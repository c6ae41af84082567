"""`ofer animate`: one face of a video, a folder of pictures, a bag or a dataset as an animated head, a GLB with morph
targets.

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
from ofer_models.bundle.manifest import Bundle
from ofer_models.dataset.store import is_dataset
from ofer_models.files.refusal import one_line
from ofer_models.perception.intrinsics import Intrinsics
from ofer_models.pipeline import FacePipeline
from ofer_ros.base.bundles import bundle_folder
from ofer_ros.camera.source_frame import SourceFrame
from ofer_ros.camera.sources import open_source
from ofer_ros.demo.processes import HELP, DemoError, reported

_LARGEST = 1280  # px, as camera_node's max_side
_BEFORE, _LOOKS = 1.2, 12  # s and looks before the first frame, in which the head of a face in it becomes known

Acted = tuple[Performance | None, np.ndarray | None]  # of a frame, with betas (S,); None where the face is not there

app = typer.Typer(add_completion=False)


def performances(
    frames: Iterator[tuple[np.ndarray, float]], pipeline: FacePipeline, performer: Performer
) -> Iterator[Acted]:
    """For each frame (rgb (H, W, 3) uint8, seconds) what the followed face does.

    The first frame is looked at beforehand as if it stood still: else the avatar would move while the head is gathered.
    """
    for number, (rgb, stamp) in enumerate(frames):
        height, width = rgb.shape[:2]
        camera = Intrinsics.from_field_of_view(width, height)
        for look in range(0 if number else _LOOKS):
            pipeline(rgb, stamp - _BEFORE * (1 - look / _LOOKS), camera)
        faces = {face.id: face for face in pipeline(rgb, stamp, camera)}
        acted = performer([_seen(face) for face in faces.values()], stamp)
        yield acted, None if acted is None else faces[performer.followed].shape


def recorded(dataset: Path, bundle: Bundle, where: str, hypothesis: str, performer: Performer) -> Iterator[Acted]:
    """The same of a dataset's rows. Raises DemoError or ValueError before the first frame."""
    try:
        from ofer_models.dataset.meshes import hypotheses_with
        from ofer_models.dataset.playback import played
    except ImportError:
        raise DemoError("datasets need pyarrow: pip install pyarrow") from None
    check_hypothesis(hypothesis, hypotheses_with(dataset, bundle))
    frames = ((performer(faces, stamp), betas) for faces, betas, stamp in played(dataset, where))
    return ((acted, None if acted is None else betas[performer.followed]) for acted, betas in frames)


def animate(
    source: str, out: Path, bundle: str, face: str, hypothesis: str, rate: float, where: str = ""
) -> tuple[int, int, float]:
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
    dataset = Path(source) if is_dataset(Path(source)) else None
    if where and not dataset:
        raise DemoError("--where goes with a dataset of `ofer reconstruct --ray`")
    frames = iter(()) if dataset else open_source(source, rate, hold=1 / rate, max_side=_LARGEST)
    used = Bundle.load(bundle_folder(bundle))
    check_units(used.head)
    performer = Performer(arkit_map(used.head), face, hypothesis, patience=0)
    if dataset:
        acting = recorded(dataset, used, where, hypothesis, performer)
    else:
        pipeline = FacePipeline(used)
        check_hypothesis(hypothesis, pipeline.hypotheses)
        acting = performances(_stamped(frames, rate), pipeline, performer)
    kept: list[Performance] = []
    betas, count = None, 0
    columns = (TextColumn("{task.description}"), TextColumn("{task.completed} frames"), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(f"animating {Path(source).name}", total=None)
        for acted, shape in acting:
            count += 1
            bar.advance(task)
            if acted is not None and (not kept or acted.stamp > kept[-1].stamp):
                kept.append(acted)
                betas = shape  # the last: the identity is best known at the end
    if betas is None:
        raise DemoError(f"no face{f' {face!r}' * bool(face)} in the {count} frames of {source}")
    write_glb(out, used.head, betas, kept)
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
    help="One face of a video, a folder of pictures, a bag or a dataset as an animated head (GLB with ARKit's shapes).",
    context_settings=HELP,
)
def main(
    source: Annotated[str, typer.Argument(help="As of `ofer demo` (a webcam has no end), or a dataset.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The .glb file.")] = Path("head.glb"),
    bundle: Annotated[str, typer.Option(help="Name in engines/ or folder; its head needs ARKit's units.")] = "open",
    face: Annotated[
        str, typer.Option(help="Id of the face to follow, in a dataset its track; the largest by default.")
    ] = "",
    hypothesis: Annotated[str, typer.Option(help="mean, selected, or the number of one.")] = "mean",
    rate: Annotated[float, typer.Option(min=1, max=240, help="Hz, of sources that state none.")] = 30.0,
    where: Annotated[str, typer.Option(help="Which rows of a dataset, as of `ofer meshes`; all of one source.")] = "",
) -> None:
    with reported("animate"):
        if source.isdigit():
            raise DemoError("a webcam has no end: record a video or a bag first")
        try:
            kept, count, seconds = animate(source, out, bundle, face, hypothesis, rate, where)
        except (ValueError, OSError) as error:
            raise DemoError(one_line(error)) from None
        typer.echo(f"{out}: {kept} of {count} frames with the face, {seconds:.1f} s")


if __name__ == "__main__":
    app(prog_name="ofer animate")
