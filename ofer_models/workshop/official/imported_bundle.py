"""Where an import writes: a folder beside the bundle's, moved to its place at the end, so a failure leaves nothing."""

from __future__ import annotations

import fcntl
import glob
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ofer_models.bundle.manifest import MANIFEST, Bundle
from ofer_models.files.refusal import one_line
from ofer_models.workshop.official.files import OfficialImportError

_OLD = "-old"
_LONGEST = 2000  # characters of a refusal: some of them are names of tensors, which a file chooses


@contextmanager
def imported_bundle(out: Path, *refusals: type[Exception]) -> Iterator[Path]:
    """A folder to write a bundle to, which takes the place of `out` when the block ends and the run time can load it.

    refusals: what the block raises for files that are not as they should be. Raises OfficialImportError with one line
    for those, and where `out` is something else or cannot be written; `out` is then as it was before.
    """
    _check_destination(out)
    try:
        with work_folder(out) as work:
            yield work
            bundle = Bundle.load(work)  # nothing takes its place that the run time would refuse
            _ = bundle.head, bundle.albedo
            _replace(out, work)
    except refusals as error:
        # Names out of a hostile file must not reach a terminal as line ends or control codes.
        raise OfficialImportError("".join(c if c.isprintable() else "?" for c in str(error)[:_LONGEST])) from None
    except OSError as error:
        raise OfficialImportError(f"import stopped: {one_line(error)}") from None


def _check_destination(out: Path) -> None:
    """Refuse to replace anything that is not a bundle."""
    if out.exists() and not (out.is_dir() and ((out / MANIFEST).is_file() or not any(out.iterdir()))):
        raise OfficialImportError(f"{out} exists and is no bundle; choose another --out")


@contextmanager
def work_folder(out: Path) -> Iterator[Path]:
    """A folder beside `out`; it and whatever had to be made for it are gone afterwards, unless `out` came to be.

    What a killed import has left is removed first: its folder is not held any more.
    """
    made = [folder for folder in out.parents if not folder.exists()]  # the innermost first
    out.parent.mkdir(parents=True, exist_ok=True)
    _sweep(out)
    work = Path(tempfile.mkdtemp(prefix=_prefix(out), dir=out.parent))
    held = os.open(work, os.O_RDONLY)
    fcntl.flock(held, fcntl.LOCK_EX)
    try:
        yield work
    finally:
        os.close(held)
        shutil.rmtree(work, ignore_errors=True)
        with suppress(OSError):  # not empty: the bundle is there
            for folder in made:
                folder.rmdir()


def _prefix(out: Path) -> str:
    return f".{out.name}-import-"


def _sweep(out: Path) -> None:
    """Remove what killed imports left beside `out`; a bundle that one had only moved aside comes back first."""
    for left in sorted(out.parent.glob(f"{glob.escape(_prefix(out))}*")):
        held = os.open(left, os.O_RDONLY | os.O_NOFOLLOW)
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:  # an import that is still running
            continue
        finally:
            os.close(held)
        if left.name.endswith(_OLD) and not out.exists():
            left.rename(out)
        else:
            shutil.rmtree(left, ignore_errors=True)


def _replace(out: Path, work: Path) -> None:
    work.chmod(0o755)  # mkdtemp makes it private
    old = work.with_name(f"{work.name}{_OLD}")
    if out.exists():
        out.rename(old)
    try:
        work.rename(out)
    except OSError:
        if old.exists():
            old.rename(out)
        raise
    shutil.rmtree(old, ignore_errors=True)
