"""Choosing a head for a face from candidates that are ranked on its views, by the landmarks of these."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from ofer_models.bundle.manifest import Bundle
from ofer_models.head.decoders import LandmarkDecoder
from ofer_models.perception.head_pose import HeadPose
from ofer_models.runtime.stages import StageSet
from ofer_models.tracking.evidence import LandmarkEvidence
from ofer_models.tracking.identity_evidence import IdentityEvidence
from ofer_models.tracking.identity_ranking import CandidateRanker, RankedCandidates, Ranking, RankingRequest
from ofer_models.tracking.identity_state import POOLED, Draw, Drawn, View
from ofer_models.tracking.reprojection import best_pose_log_weights, poses_of, softmax

COMPARED = 40  # candidates, the best ranked, that are also posed and compared with the landmarks
# What IdRank's log odds count beside the landmarks' among those. Little: it cannot tell which of the best is nearest to
# the truth (docs/ranking.md), and anybody sees which head fits the picture.
RANK_SHARE = 1 / 64
# A candidate must be this many times as likely as the head in use to take its place: a change is seen by everyone.
REPLACE_ODDS = 1.5


class CandidateDrawer:
    """draw(draw) -> Drawn: the best of the candidates that a `CandidateRanker` draws and ranks on all views together.

    It uses nothing that the expression stream uses, so it may run on another thread.
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
        self._rank = CandidateRanker(stages)
        self._landmarks = landmarks
        self._candidates = candidates
        self.elsewhere: Ranking | None = None
        """Draws and ranks in place of this machine's networks, which do what it cannot."""

    def __call__(self, draw: Draw) -> Drawn:
        """The best of the candidates and the head in use, by scores pooled over the views. Raises ValueError where the
        networks give no numbers."""
        incumbent = draw.incumbent if self._fit is None else None
        ranked = self._ranked(draw, incumbent)
        starts = [] if self._bundle.rank_alone else self._starts(draw.views, ranked.betas)
        if self._fit is not None:
            scores = self._scores(draw.views, starts, ranked.betas, ranked.log_odds, False)
            return self._fitted(draw, starts, ranked.betas, scores)
        betas, log_odds = ranked.betas, ranked.log_odds
        if incumbent is not None:
            betas, log_odds = np.concatenate([betas, incumbent[None]]), np.append(log_odds, ranked.incumbent)
        scores = self._scores(draw.views, starts, betas, log_odds, incumbent is not None)
        best, probabilities = int(scores.argmax()), softmax(scores)
        if incumbent is not None and scores[best] < scores[-1] + math.log(REPLACE_ODDS):
            return Drawn(None, float(probabilities[-1]))
        return self._head(betas[best], float(probabilities[best]))

    def warm_up(self) -> None:
        """Run both networks once at every size that draws have."""
        self._rank.warm_up(self._candidates, POOLED)

    def _ranked(self, draw: Draw, incumbent: np.ndarray | None) -> RankedCandidates:
        views = draw.views
        request = RankingRequest(
            np.stack([view.context for view in views]), _shares(views), self._candidates, draw.seed, self._rank.steps,
            {name: np.concatenate([view.inputs[name] for view in views]) for name in self._rank.inputs}, incumbent,
        )  # fmt: skip
        elsewhere = self.elsewhere
        answer = None if elsewhere is None else elsewhere(request)
        return self._rank(request) if answer is None else answer

    def _starts(self, views: Sequence[View], betas: np.ndarray) -> list[HeadPose | None]:
        """The pose of the mean of betas (N, S) in each view, from which that of whatever is near it is found."""
        mean = betas.mean(0)[None]
        models = [self._landmarks.of_candidates(mean, view.expression, view.jaw) for view in views]
        return [poses_of([view.seen], model, [view.pose])[0] for view, model in zip(views, models, strict=True)]

    def _fitted(
        self, draw: Draw, starts: Sequence[HeadPose | None], betas: np.ndarray, scores: np.ndarray
    ) -> Drawn:
        """The mean of betas (N, S), weighed by scores (N,), moved to the landmarks, unless the incumbent is as likely
        there. The score is the likeliest one's probability.

        The likeliest of some draws is a draw still: two pictures of one person would begin from different chances.
        """
        probabilities = softmax(scores)
        probability, weights = float(probabilities.max()), _shares(draw.views)
        shape, gain = self._fit(probabilities @ betas, draw.views, weights, draw.incumbent, starts)
        if draw.incumbent is not None and gain < math.log(REPLACE_ODDS):
            return Drawn(None, probability)
        return self._head(shape, probability)

    def _head(self, betas: np.ndarray, score: float) -> Drawn:
        if not (np.isfinite(betas).all() and np.isfinite(score)):
            raise ValueError("the head that was chosen, or its score, is not a number: NaN or infinite")
        return Drawn(self._bundle.head.identity(betas), score)

    def _scores(
        self, views: Sequence[View], starts: Sequence[HeadPose | None], betas: np.ndarray, log_odds: np.ndarray,
        keep_last: bool,
    ) -> np.ndarray:  # fmt: skip
        """Scores (N,) of betas (N, S): IdRank's log odds (N,), and how well each fits the landmarks in its best pose, a
        mean over the views as well; -inf for those that rank too low to be posed, which the last never does if
        keep_last."""
        if self._bundle.rank_alone:
            return log_odds
        compared = np.argsort(-log_odds, kind="stable")[:COMPARED]
        if keep_last:
            compared = np.union1d(compared, [len(betas) - 1])
        result = np.full(len(betas), -np.inf)
        result[compared] = RANK_SHARE * log_odds[compared]
        for view, start, weight in zip(views, starts, _shares(views), strict=True):
            models = self._landmarks.of_candidates(betas[compared], view.expression, view.jaw)
            result[compared] += weight * best_pose_log_weights(view.seen, models, start)
        return result


def _shares(views: Sequence[View]) -> np.ndarray:
    """What each view counts (len(views),), by quality; they sum to one."""
    weights = np.array([max(view.quality, 1e-3) for view in views])
    return weights / weights.sum()
