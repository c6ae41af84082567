"""Bundles by name, and the pipeline that a node's parameters describe."""

from __future__ import annotations

from pathlib import Path

from ofer_models.bundle import Bundle, default_bundle
from ofer_models.pipeline import FacePipeline
from ofer_ros.parameters import OferSettings
from ofer_ros.paths import share


def bundle_folder(name: str) -> Path:
    """Folder of a bundle given by name ('open', or another below engines/) or by path; it need not exist."""
    if name == "open":
        return default_bundle()
    given = Path(name).expanduser()
    return given if len(given.parts) != 1 or given.is_dir() else share() / "engines" / name


def load_bundle(name: str) -> Bundle:
    """Bundle of a name or path. Raises BundleError, in one line, when it is missing or damaged."""
    return Bundle.load(bundle_folder(name))


def load_pipeline(settings: OferSettings) -> FacePipeline:
    """The pipeline as the parameters say. Raises BundleError."""
    return FacePipeline(
        load_bundle(settings.bundle),
        hypotheses=settings.hypotheses,
        candidates=settings.candidates or None,
        steps=settings.steps or None,
        seed=settings.seed,
        threads=settings.threads,
        max_faces=settings.max_faces,
    )
