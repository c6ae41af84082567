"""The head model in FLAME layout: loading, decoding, and building the open head."""

from ofer_models.head.decoders import HypothesisDecoder, LandmarkDecoder
from ofer_models.head.model import HeadModel, HeadModelError, Identity, LandmarkEmbedding

__all__ = ["HeadModel", "HeadModelError", "HypothesisDecoder", "Identity", "LandmarkDecoder", "LandmarkEmbedding"]
