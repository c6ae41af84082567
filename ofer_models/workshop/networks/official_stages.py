"""The official encoders as the pipeline's stages see them: crops in, context or score out.

OFER joins contexts as FaRL first, ArcFace second (its paper says the reverse; the release's code decides).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ofer_models.workshop.networks.arcface import ArcFace
from ofer_models.workshop.networks.farl import Farl
from ofer_models.workshop.networks.rank import FoldedRank


class IdentityContext(nn.Module):
    """IdGen's context: crop112_bgr (F, 3, 112, 112) -> unit vectors (F, 512)."""

    def __init__(self, arcface: ArcFace) -> None:
        super().__init__()
        self.arcface = arcface

    def forward(self, crop112_bgr: Tensor) -> Tensor:
        return self.arcface(crop112_bgr)


class JointContext(nn.Module):
    """Context of ExpGen and IdRank: crop112_bgr (F, 3, 112, 112), crop224 (F, 3, 224, 224) -> (F, 1024)."""

    def __init__(self, arcface: ArcFace, farl: Farl) -> None:
        super().__init__()
        self.arcface, self.farl = arcface, farl

    def forward(self, crop112_bgr: Tensor, crop224: Tensor) -> Tensor:
        return torch.cat([self.farl(crop224), self.arcface(crop112_bgr)], dim=-1)


class RankWithEncoders(nn.Module):
    """IdRank with its own encoders: betas (F, N, S) and both crops -> score (F, N)."""

    def __init__(self, context: JointContext, rank: FoldedRank) -> None:
        super().__init__()
        self.context, self.rank = context, rank

    def forward(self, betas: Tensor, crop112_bgr: Tensor, crop224: Tensor) -> Tensor:
        return self.rank(betas, self.context(crop112_bgr, crop224))
