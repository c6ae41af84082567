"""Drawing and ranking candidate heads on the views of a face."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from ofer_models.bundle.manifest import Bundle
from ofer_models.head.decoders import LandmarkDecoder
from ofer_models.runtime.stages import StageSet
from ofer_models.tracking.evidence import LandmarkEvidence
from ofer_models.tracking.identity_evidence import IdentityEvidence
from ofer_models.tracking.identity_state import POOLED, Draw, Drawn, View
from ofer_models.tracking.reprojection import best_pose_log_weights, softmax

COMPARED = 40  # candidates, the best ranked, that are also posed and compared with the landmarks
# What IdRank's log odds count beside the landmarks' among those. Little: it cannot tell which of the best is nearest to
# the truth (docs/ranking.md), and anybody sees which head fits the picture.
RANK_SHARE = 1 / 64
# A candidate must be this many times as likely as the head in use to take its place: a change is seen by everyone.
REPLACE_ODDS = 1.5


class CandidateDrawer:
    """draw(draw) -> Drawn: candidates from every view's context, ranked on all views together.

    It uses IdGen and IdRank and nothing that the expression stream uses, so it may run on another thread.
    """

    def __init__(
        self,
        bundle: Bundle,
        stages: StageSet,
        landmarks: LandmarkDecoder,
        candidates: int,
        evidence: LandmarkEvidence | None = None,
    ) -> None:
        """candidates: N, shared out among the views. evidence: moves the chosen head to the views' landmarks."""
        self._fit = None if evidence is None or bundle.rank_alone else IdentityEvidence(bundle.head, evidence)
        self._bundle = bundle
        self._stages = stages
        self._landmarks = landmarks
        self._candidates = candidates

    def __call__(self, draw: Draw) -> Drawn:
        """The best of the candidates and the head in use, by scores pooled over the views. Raises ValueError where the
        networks give no numbers."""
        views, rng = draw.views, np.random.default_rng(draw.seed)
        context = np.stack([view.context for view in views])
        shape = self._drawn(len(views))
        betas = self._stages.idgen(context, rng.standard_normal(shape, dtype=np.float32), rng)
        betas = betas.astype(np.float32).reshape(-1, shape[-1])
        if self._fit is not None:
            return self._fitted(draw, betas, self._scores(views, context, betas, False))
        if draw.incumbent is not None:
            betas = np.concatenate([betas, draw.incumbent[None]])
        scores = self._scores(views, context, betas, draw.incumbent is not None)
        best, probabilities = int(scores.argmax()), softmax(scores)
        if draw.incumbent is not None and scores[best] < scores[-1] + math.log(REPLACE_ODDS):
            return Drawn(None, float(probabilities[-1]))
        return self._head(betas[best], float(probabilities[best]))

    def warm_up(self) -> None:
        """Run both networks once at every size that draws have."""
        stages = self._stages
        width = int(stages.idgen.spec.inputs["context"][-1])
        for views in range(POOLED, 0, -1):
            shape = self._drawn(views)
            stages.idgen(np.zeros((views, width), np.float32), np.zeros(shape, np.float32), np.random.default_rng(0))
            for candidates in (views * shape[1], views * shape[1] + 1):  # the incumbent takes part
                sizes = {"F": views, "N": candidates}
                stages.idrank(**stages.empty_inputs(stages.idrank, sizes))

    def _drawn(self, views: int) -> tuple[int, int, int]:
        return views, math.ceil(self._candidates / views), self._stages.idgen.n_coefficients

    def _fitted(self, draw: Draw, betas: np.ndarray, scores: np.ndarray) -> Drawn:
        """The best of betas (N, S) by scores (N,), moved to the landmarks, unless the incumbent is as likely there."""
        best = int(scores.argmax())
        probability = float(softmax(scores)[best])
        weights = _shares(draw.views)
        shape, gain = self._fit(betas[best], draw.views, weights, draw.incumbent)
        if draw.incumbent is not None and gain < math.log(REPLACE_ODDS):
            return Drawn(None, probability)
        return self._head(shape, probability)

    def _head(self, betas: np.ndarray, score: float) -> Drawn:
        if not (np.isfinite(betas).all() and np.isfinite(score)):
            raise ValueError("the head that was chosen, or its score, is not a number: NaN or infinite")
        return Drawn(self._bundle.head.identity(betas), score)

    def _scores(self, views: Sequence[View], context: np.ndarray, betas: np.ndarray, keep_last: bool) -> np.ndarray:
        """Log odds (N,) of betas (N, S): IdRank's, and how well each fits the landmarks in its best pose; -inf for
        those that rank too low to be posed, which the last never does if keep_last.

        Over the views these are means by quality, not sums: views of one face are no independent witnesses.
        """
        weights = _shares(views)
        names = self._stages.idrank.inputs.keys() - {"betas", "context"}
        arrays = {name: np.concatenate([view.inputs[name] for view in views]) for name in names}
        if "context" in self._stages.idrank.inputs:
            arrays["context"] = context
        everywhere = np.ascontiguousarray(np.broadcast_to(betas, (len(views), *betas.shape)))
        ranked = self._stages.idrank(betas=everywhere, **arrays)["score"].astype(np.float64)
        top = ranked.max(1, keepdims=True)
        scores = weights @ (ranked - top - np.log(np.exp(ranked - top).sum(1, keepdims=True)))
        if self._bundle.rank_alone:
            return scores
        compared = np.argsort(-scores)[:COMPARED]
        if keep_last:
            compared = np.union1d(compared, [len(betas) - 1])
        result = np.full(len(betas), -np.inf)
        result[compared] = RANK_SHARE * scores[compared]
        for view, weight in zip(views, weights, strict=True):
            models = self._landmarks.of_candidates(betas[compared], view.expression, view.jaw)
            result[compared] += weight * best_pose_log_weights(view.seen, models)
        return result


def _shares(views: Sequence[View]) -> np.ndarray:
    """What each view counts (len(views),), by quality; they sum to one."""
    weights = np.array([max(view.quality, 1e-3) for view in views])
    return weights / weights.sum()
