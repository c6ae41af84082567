"""Bundles by name or path, as parameters give them."""

from __future__ import annotations

from pathlib import Path

from ofer_models.bundle import Bundle, BundleError, default_bundle
from ofer_models.bundle.share import share_folder
from ofer_models.head.landmark_sets import check_complete
from ofer_models.head.model import HeadModelError


def bundle_folder(name: str) -> Path:
    """Folder of a bundle given by name ('open', or another below engines/) or by path; it need not exist."""
    if name == "open":
        return default_bundle()
    given = Path(name).expanduser()
    return given if len(given.parts) != 1 or given.is_dir() else share_folder() / "engines" / name


def load_bundle(name: str) -> Bundle:
    """Bundle of a name or path. Raises BundleError, in one line, when it is missing or damaged, or its head lacks what
    the nodes show."""
    bundle = Bundle.load(bundle_folder(name))
    try:
        check_complete(bundle.head)
    except HeadModelError as error:
        raise BundleError(f"{bundle.path}: {error}") from None
    return bundle
