"""Requests to an identity_server and its answers as messages, and back; what comes from outside is checked."""

from __future__ import annotations

import math
from array import array

import numpy as np

from ofer_models.tracking.identity_ranking import CandidateRanker, RankedCandidates, RankingRequest
from ofer_msgs.srv import DrawIdentity

MOST_VIEWS, MOST_CANDIDATES, MOST_STEPS, MOST_SEEDS = 16, 512, 1000, 16


def request_message(request: RankingRequest, bundle: str) -> DrawIdentity.Request:
    """bundle: sha256 of its manifest."""
    given = request.inputs.values()
    return DrawIdentity.Request(
        bundle=bundle, contexts=_floats(request.contexts), shares=array("d", request.shares),
        inputs=list(request.inputs),
        input_values=_floats(np.concatenate([one.ravel() for one in given]) if given else np.empty(0)),
        incumbent=_floats(np.empty(0) if request.incumbent is None else request.incumbent),
        candidates=request.candidates, steps=request.steps or 0, seed=array("Q", request.seed),
    )  # fmt: skip


def request_of(message: DrawIdentity.Request, ranker: CandidateRanker, bundle: str) -> RankingRequest:
    """What `ranker`, of the bundle with this sha256, is asked for. Raises ValueError, in one line, for what it cannot
    be asked."""
    if message.bundle != bundle:
        asked = message.bundle[:12] if message.bundle.isalnum() else "without a hash"
        raise ValueError(f"its bundle is {bundle[:12]}, the request's is {asked}: give both the same one")
    views = len(message.shares)
    if not 1 <= views <= MOST_VIEWS:
        raise ValueError(f"shares are of {views} views, should be of 1 to {MOST_VIEWS}")
    shares = _checked("shares", message.shares, (views,), np.float64)
    if shares.min() < 0 or abs(shares.sum() - 1) > 1e-3:
        raise ValueError(f"shares of the views sum to {shares.sum():g}, should be positive and sum to 1")
    for name, count, least, most in (
        ("candidates", message.candidates, 1, MOST_CANDIDATES), ("numbers of seed", len(message.seed), 1, MOST_SEEDS),
        ("steps", message.steps, 0, MOST_STEPS),
    ):  # fmt: skip
        if not least <= count <= most:
            raise ValueError(f"{count} {name} are asked for, should be {least} to {most}")
    if sorted(message.inputs) != sorted(ranker.inputs):
        wanted = ", ".join(sorted(ranker.inputs)) or "none"
        raise ValueError(f"{len(message.inputs)} inputs are given, this bundle's IdRank takes {wanted}")
    shapes = [(views, *map(int, ranker.inputs[name][1:])) for name in message.inputs]
    values = _checked("input_values", message.input_values, (sum(map(math.prod, shapes)),))
    parts = np.split(values, np.cumsum([math.prod(shape) for shape in shapes])[:-1])
    return RankingRequest(
        _checked("contexts", message.contexts, (views, ranker.n_context)), shares, message.candidates,
        tuple(int(part) for part in message.seed), message.steps or None,
        {name: part.reshape(shape) for name, part, shape in zip(message.inputs, parts, shapes, strict=False)},
        _checked("incumbent", message.incumbent, (ranker.n_shape,)) if message.incumbent else None,
    )  # fmt: skip


def answer(response: DrawIdentity.Response, ranked: RankedCandidates) -> DrawIdentity.Response:
    """Put them into the response. Raises ValueError where they are not finite: contexts that no encoder gives."""
    if not (np.isfinite(ranked.betas).all() and np.isfinite(ranked.log_odds).all()):
        raise ValueError("these contexts give heads that are not finite")
    response.success, response.betas = True, _floats(ranked.betas)
    response.log_odds, response.incumbent_log_odds = array("d", ranked.log_odds), ranked.incumbent
    return response


def ranked_of(message: DrawIdentity.Response, n_shape: int) -> RankedCandidates:
    """Raises ValueError, in one line: the server's reason, or what its answer lacks."""
    if not message.success:
        raise ValueError(message.message)
    log_odds = _checked("log_odds", message.log_odds, (len(message.log_odds),), np.float64)
    if not len(log_odds):
        raise ValueError("its answer has no candidates")
    betas = _checked("betas", message.betas, (len(log_odds), n_shape))
    return RankedCandidates(betas, log_odds, message.incumbent_log_odds)


def _floats(values: np.ndarray) -> array:
    return array("f", np.ascontiguousarray(values, np.float32).tobytes())


def _checked(name: str, values: array, shape: tuple[int, ...], kind: type = np.float32) -> np.ndarray:
    """The numbers in this shape, if they are as many and all finite."""
    if len(values) != math.prod(shape):
        raise ValueError(f"{name} has {len(values)} numbers, should have {' x '.join(map(str, shape))}")
    numbers = np.array(values, kind).reshape(shape)
    if not np.isfinite(numbers).all():
        raise ValueError(f"{name} has numbers that are not finite")
    return numbers
