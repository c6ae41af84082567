"""`ofer reconstruct`: a bar over the pictures, a table of the faces, what failed; `--ray` leads to `archive`."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape
from rich.table import Table

from ofer_models.cli.archive import check_address, reconstruct_archive
from ofer_models.cli.console import BundleOption, check_choice, console, progress, require, say

if TYPE_CHECKING:
    from ofer_models.reconstruction.reconstruct import PictureResult


def reconstruct(
    images: Annotated[
        list[str],
        typer.Argument(
            help="Pictures, folders of pictures, or patterns such as 'a/*.jpg'. With --ray also videos, bags, text "
            "lists of sources, and addresses (s3://).",
        ),
    ],
    out: Annotated[
        Path,
        typer.Option(
            "--out", "-o", help="Folder for the results, one in it a picture, replaced by each run; with --ray a "
            "dataset that each run adds to.",
        ),
    ],
    bundle: BundleOption = None,
    mesh_format: Annotated[str, typer.Option("--format", help="Meshes as ply, obj or glb.")] = "ply",
    millimetres: Annotated[
        bool, typer.Option("--millimetres", help="Meshes and landmarks in mm, as OFER's release writes them.")
    ] = False,
    now_landmarks: Annotated[
        bool, typer.Option("--now-landmarks", help="Beside every mesh its seven landmarks, as the NoW challenge wants.")
    ] = False,
    hypotheses: Annotated[int, typer.Option(min=1, help="Expressions a face.")] = 15,
    candidates: Annotated[int, typer.Option(min=1, help="Head shapes drawn and ranked a face.")] = 100,
    seed: Annotated[int, typer.Option(min=0, help="Equal seeds and pictures give equal files.")] = 0,
    ray: Annotated[
        str | None,
        typer.Option(
            metavar="[ADDRESS]", callback=check_address,
            help="To a Parquet dataset, on Ray: all cores of this machine, or a running cluster's host:port.",
        ),
    ] = None,
    workers: Annotated[int, typer.Option(min=0, help="At most, with --ray; 0: one for each CPU.")] = 0,
    gpus: Annotated[float, typer.Option(min=0, help="Of each worker, with --ray; 0.25 lets four share one.")] = 0,
) -> None:
    """Meshes, coefficients and a sheet of every face in pictures; fails if a picture cannot be read or has no face.

    With --ray: the faces of archives of pictures, videos and bags as rows of a dataset. The same command goes on where
    a run was stopped.
    """
    if ray:
        if mesh_format != "ply" or millimetres or now_landmarks:
            raise typer.BadParameter(
                "a dataset has no meshes: leave out --format, --millimetres, --now-landmarks; `ofer meshes` makes them"
            )
        raise SystemExit(reconstruct_archive(images, out, bundle, ray, workers, gpus, hypotheses, candidates, seed))
    if workers or gpus:
        raise typer.BadParameter("--workers and --gpus go with --ray")
    require("run `make demo`", "cv2", "mediapipe", "onnxruntime")
    check_choice("--format", mesh_format, ("ply", "obj", "glb"))
    from ofer_models.bundle.manifest import default_bundle
    from ofer_models.perception.pictures import printable
    from ofer_models.pipeline import FacePipeline
    from ofer_models.reconstruction.pictures import find_pictures
    from ofer_models.reconstruction.reconstruct import MAX_FACES, Output, ReconstructError
    from ofer_models.reconstruction.reconstruct import reconstruct as reconstruct_all

    output = Output(out, mesh_format, millimetres, now_landmarks)  # type: ignore[arg-type]
    pictures, problems, hidden = find_pictures(images, outside=out)
    results: list[PictureResult] = []
    if pictures:
        try:
            out.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ReconstructError(f"{out} cannot be used for results ({error})") from None
        pipeline = FacePipeline(
            bundle or default_bundle(), hypotheses=hypotheses, candidates=candidates, seed=seed,
            threads=len(os.sched_getaffinity(0)), max_faces=MAX_FACES, small_faces=True,
        )  # fmt: skip
        work = reconstruct_all(pictures, pipeline, output, seed)
        results = list(progress(work, "pictures", len(pictures)))
        if not any(out.iterdir()):  # nothing was found
            out.rmdir()
        _show(results, out)
    for path in hidden:
        say(f"skipped {printable(path)}: a hidden file")
    failed = problems | {str(result.picture): result.problem for result in results if result.problem}
    for name, problem in failed.items():
        say(f"{printable(name)}: {problem}", "failed", "red")
    raise SystemExit(1 if failed else 0)


def _show(results: list[PictureResult], folder: Path) -> None:
    """A row for each face; scores are probabilities."""
    from ofer_models.perception.pictures import printable

    found = sum(len(result.faces) for result in results)
    table = Table(title=escape(f"{found} faces of {len(results)} pictures in {printable(folder)}"))
    table.add_column("picture", overflow="fold")
    table.add_column("face", no_wrap=True)
    for heading in ("identity", "selected", "occlusion", "spread", "time"):
        table.add_column(heading, justify="right", no_wrap=True)
    for result in results:
        for number, item in enumerate(result.faces):
            face, spread = item.face, item.face_spread_mm
            table.add_row(
                escape(printable(result.folder.name)) if number == 0 else "", item.name, f"{face.identity_score:.2f}",
                f"{face.selected} ({face.scores[face.selected]:.2f})", f"{face.occlusion:.2f}",
                "not known" if math.isnan(spread) else f"{spread:.2f} mm",
                f"{result.seconds:.1f} s" if number == 0 else "",
            )  # fmt: skip
    console.print(table)
