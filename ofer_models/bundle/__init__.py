"""Bundles: folders that hold everything learned or licensed, described by a manifest."""

from ofer_models.bundle.manifest import Bundle, BundleError, StageSpec, default_bundle

__all__ = ["Bundle", "BundleError", "StageSpec", "default_bundle"]
