"""Bundles by name, and the pipeline that a node's parameters describe."""

from __future__ import annotations

from pathlib import Path

from ofer_ros.parameters import OferSettings
from ofer_ros.paths import share


def bundle_folder(name: str) -> Path:
    """Folder of a bundle given by name (below engines/) or by path; it need not exist."""
    given = Path(name).expanduser()
    return given if len(given.parts) != 1 or given.is_dir() else share() / "engines" / name


def load_bundle(name: str):
    """`ofer_models.bundle.Bundle` of a name or path. Raises BundleError, in one line, when it is missing or damaged."""
    from ofer_models.bundle import Bundle

    return Bundle.load(bundle_folder(name))


def load_pipeline(settings: OferSettings):
    """`ofer_models.pipeline.FacePipeline` as the parameters say. Raises BundleError."""
    from ofer_models.pipeline import FacePipeline

    return FacePipeline(
        load_bundle(settings.bundle),
        hypotheses=settings.hypotheses,
        candidates=settings.candidates or None,
        steps=settings.steps or None,
        seed=settings.seed,
        threads=settings.threads,
        max_faces=settings.max_faces,
    )
