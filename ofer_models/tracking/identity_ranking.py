"""Candidate heads drawn by IdGen and ranked by IdRank: the part of a draw that needs no landmarks and no head model,
and so may be done on another machine than the frames."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np

from ofer_models.runtime.stages import StageSet


@dataclass(frozen=True, eq=False)
class RankingRequest:
    """A wish for candidates: contexts (F, C) of the identity encoder on the views of one face; shares (F,) of what each
    view counts, which sum to one; inputs: what IdRank takes beside betas and contexts, (F, ...) by name; incumbent
    (S,): betas that are ranked with the candidates. candidates: how many, shared out among the views; steps of IdGen,
    None for the bundle's; seed of all noise: equal requests have equal answers.
    """

    contexts: np.ndarray
    shares: np.ndarray
    candidates: int
    seed: tuple[int, ...]
    steps: int | None = None
    inputs: Mapping[str, np.ndarray] = field(default_factory=dict)
    incumbent: np.ndarray | None = None


@dataclass(frozen=True, eq=False)
class RankedCandidates:
    """betas (N, S) float32, the best first, with IdRank's log odds (N,) float64, and the incumbent's (-inf without)."""

    betas: np.ndarray
    log_odds: np.ndarray
    incumbent: float = -math.inf


# Whoever draws and ranks in place of a `CandidateRanker`; None where it cannot now.
Ranking = Callable[[RankingRequest], "RankedCandidates | None"]


class CandidateRanker:
    """ranker(request) -> RankedCandidates. It uses IdGen and IdRank and nothing that the expression stream uses, so it
    may run on another thread."""

    def __init__(self, stages: StageSet) -> None:
        """stages: idgen and idrank, at least."""
        self._stages = stages

    @property
    def inputs(self) -> dict[str, tuple[int | str, ...]]:
        """What IdRank takes beside betas and contexts: names and shapes."""
        taken = self._stages.idrank.inputs.items()
        return {name: dims for name, dims in taken if name not in ("betas", "context")}

    @property
    def n_context(self) -> int:
        """C, numbers of a context."""
        return int(self._stages.idgen.spec.inputs["context"][-1])

    @property
    def n_shape(self) -> int:
        """S, numbers of a candidate's betas."""
        return self._stages.idgen.n_coefficients

    @property
    def steps(self) -> int | None:
        """Sampling steps of IdGen; None: the bundle's."""
        return self._stages.idgen.steps

    def set_steps(self, steps: int | None) -> None:
        """Sampling steps from now on. Raises ValueError for a count that the solver refuses."""
        if steps != self.steps:
            self._stages.idgen.set_steps(steps)

    def __call__(self, request: RankingRequest) -> RankedCandidates:
        """Candidates from every view's context, ranked on all views together, at the steps that are set.

        Their odds over the views are means by the views' shares, not sums: views of one face are no independent
        witnesses.
        """
        rng = np.random.default_rng(request.seed)
        noise = rng.standard_normal(self._sizes(len(request.contexts), request.candidates), dtype=np.float32)
        betas = self._stages.idgen(request.contexts, noise, rng).astype(np.float32).reshape(-1, self.n_shape)
        drawn = len(betas)
        if request.incumbent is not None:
            betas = np.concatenate([betas, request.incumbent[None]])
        scores = self._scores(request, betas)
        order = np.argsort(-scores[:drawn], kind="stable")
        incumbent = -math.inf if request.incumbent is None else float(scores[-1])
        return RankedCandidates(betas[order], scores[order], incumbent)

    def warm_up(self, candidates: int, views: int) -> None:
        """Run both networks once at every size that draws on up to so many views have."""
        for count in range(views, 0, -1):
            sizes = self._sizes(count, candidates)
            context, noise = np.zeros((count, self.n_context), np.float32), np.zeros(sizes, np.float32)
            self._stages.idgen(context, noise, np.random.default_rng(0))
            for ranked in (count * sizes[1], count * sizes[1] + 1):  # the incumbent takes part
                self._stages.idrank(**self._stages.empty_inputs(self._stages.idrank, {"F": count, "N": ranked}))

    def _sizes(self, views: int, candidates: int) -> tuple[int, int, int]:
        return views, math.ceil(candidates / views), self.n_shape

    def _scores(self, request: RankingRequest, betas: np.ndarray) -> np.ndarray:
        """Log odds (N,) of betas (N, S)."""
        arrays = dict(request.inputs)
        if "context" in self._stages.idrank.inputs:
            arrays["context"] = request.contexts
        everywhere = np.ascontiguousarray(np.broadcast_to(betas, (len(request.contexts), *betas.shape)))
        ranked = self._stages.idrank(betas=everywhere, **arrays)["score"].astype(np.float64)
        top = ranked.max(1, keepdims=True)
        return request.shares @ (ranked - top - np.log(np.exp(ranked - top).sum(1, keepdims=True)))
