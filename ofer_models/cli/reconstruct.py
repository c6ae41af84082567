"""What `ofer reconstruct` shows: a bar over the pictures, a table of the faces, and the pictures that failed."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from ofer_models.bundle.manifest import BundleError
from ofer_models.perception.pictures import printable
from ofer_models.pipeline import FacePipeline
from ofer_models.reconstruction.pictures import find_pictures
from ofer_models.reconstruction.reconstruct import MAX_FACES, Output, PictureResult, ReconstructError, reconstruct

Progress = Callable[[Iterable, str, int], Iterable]


def run(
    images: list[str],
    bundle: Path,
    output: Output,
    *,
    hypotheses: int,
    candidates: int,
    seed: int,
    threads: int,
    console: Console,
    progress: Progress,
) -> int:
    """Reconstruct and report; the exit code is 0 only if every argument and every picture gave a face."""
    pictures, problems, hidden = find_pictures(images, outside=output.folder)
    results: list[PictureResult] = []
    if pictures:
        try:
            output.folder.mkdir(parents=True, exist_ok=True)
            pipeline = FacePipeline(
                bundle, hypotheses=hypotheses, candidates=candidates, seed=seed, threads=threads, max_faces=MAX_FACES
            )
            work = reconstruct(pictures, pipeline, output, seed)
            results = list(progress(work, "pictures", len(pictures)))
        except (BundleError, ReconstructError) as error:
            return _refuse(str(error), console)
        except OSError as error:
            return _refuse(f"{output.folder} cannot be used for results ({error})", console)
    _show(results, output.folder, console)
    for path in hidden:
        console.print(f"skipped {escape(printable(path))}: a hidden file", highlight=False, soft_wrap=True)
    failed = problems | {str(result.picture): result.problem for result in results if result.problem}
    for name, problem in failed.items():
        line = escape(f"{printable(name)}: {problem}")
        console.print(f"[red]failed[/red] {line}", highlight=False, soft_wrap=True)
    return 1 if failed else 0


def _refuse(reason: str, console: Console) -> int:
    console.print(f"[red]ofer:[/red] {escape(reason)}", highlight=False, soft_wrap=True)
    return 1


def _show(results: list[PictureResult], folder: Path, console: Console) -> None:
    """A row for each face; scores are probabilities."""
    found = sum(len(result.faces) for result in results)
    table = Table(title=escape(f"{found} faces of {len(results)} pictures in {printable(folder)}"))
    table.add_column("picture", overflow="fold")
    table.add_column("face", no_wrap=True)
    for heading in ("identity", "selected", "occlusion", "spread", "time"):
        table.add_column(heading, justify="right", no_wrap=True)
    for result in results:
        for number, item in enumerate(result.faces):
            face = item.face
            table.add_row(
                escape(printable(result.folder.name)) if number == 0 else "", item.name, f"{face.identity_score:.2f}",
                f"{face.selected} ({face.scores[face.selected]:.2f})", f"{face.occlusion:.2f}",
                f"{item.face_spread_mm:.2f} mm", f"{result.seconds:.1f} s" if number == 0 else "",
            )  # fmt: skip
    if results:
        console.print(table)
