"""Which translation to ARKit's weights fits a bundle's head."""

from __future__ import annotations

from ofer_models.bundle.manifest import HEAD, default_bundle
from ofer_models.head.arkit import ArkitExact, ArkitFit, has_units
from ofer_models.head.model import HeadModel


def arkit_map(head: HeadModel) -> ArkitExact | ArkitFit:
    """ARKit's weights of a head's coefficients. Where these are not ARKit's units, the open bundle's head tells what
    the units do. Raises ValueError, in one line, when the head's expressions cannot be translated."""
    return ArkitExact(head) if has_units(head) else ArkitFit(head, HeadModel.load(default_bundle() / HEAD))
