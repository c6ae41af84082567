"""The whole chain without ROS: a camera frame in, tracked heads with their expression hypotheses out."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ofer_models.agreement import N_POINTS, SeenLandmarks, softmax
from ofer_models.bundle.manifest import Bundle, BundleError
from ofer_models.engines.stages import StageSet
from ofer_models.head.hypotheses import HypothesisDecoder
from ofer_models.head.model import HeadModel, Identity, LandmarkEmbedding
from ofer_models.identity import TrackIdentity, choose, view_quality, wants_new_identity
from ofer_models.perception.crops import encoder_inputs
from ofer_models.perception.frontend import FaceFrontend
from ofer_models.perception.head_pose import HeadPose, NoPoseError
from ofer_models.perception.intrinsics import Intrinsics
from ofer_models.perception.tracker import Track

_EMBEDDINGS = ("mediapipe", "landmarks68")  # what a head's landmarks are compared with, the first that it has
_COMPARED = 20  # candidates, the best ranked, that are also posed and compared with the landmarks


@dataclass(frozen=True)
class Face:
    """One tracked face of one frame.

    id 'f1', ...; roi (x, y, w, h) px; confidence 0..1; landmarks (478, 3) px. rotation (3, 3) and translation (3,) m
    take the head frame (FLAME axes) to the camera's optical frame (x right, y down, z forward); metric is False when
    the intrinsics were guessed. shape (S,) betas of revision identity_revision with identity_score 0..1. expressions
    (H, E), jaws (H, 3) rad, scores (H,) sum to 1, selected their arg-max. occlusion 0..1; landmark_error is the mean
    reprojection error as a part of the inter-ocular distance.
    """

    id: str
    roi: tuple[int, int, int, int]
    confidence: float
    landmarks: np.ndarray
    rotation: np.ndarray
    translation: np.ndarray
    metric: bool
    shape: np.ndarray
    identity_revision: int
    identity_score: float
    expressions: np.ndarray
    jaws: np.ndarray
    scores: np.ndarray
    selected: int
    occlusion: float
    landmark_error: float


@dataclass
class _TrackMemory:
    """What the pipeline remembers of a track: its expression noise (H, D), its identity, and the last pose."""

    noise: np.ndarray
    identity: TrackIdentity | None = None
    pose: HeadPose | None = None


class FacePipeline:
    """pipeline(frame, stamp, intrinsics) -> faces. One instance per camera and thread."""

    def __init__(
        self,
        bundle: Bundle | str | Path,
        *,
        hypotheses: int | None = None,
        candidates: int | None = None,
        steps: int | None = None,
        seed: int = 0,
        threads: int = 1,
        max_faces: int = 4,
        backend: str = "auto",
    ) -> None:
        """hypotheses H, candidates N and steps default to the bundle's. Equal seeds and frames give equal faces.
        backend: auto, tensorrt, onnxruntime or torch (`engines.backend`).

        Raises BundleError when the bundle cannot be used and ValueError for counts below one.
        """
        self.bundle = bundle if isinstance(bundle, Bundle) else Bundle.load(bundle)
        self.head = self.bundle.head
        self.hypotheses = self.bundle.hypotheses if hypotheses is None else hypotheses
        self.candidates = self.bundle.candidates if candidates is None else candidates
        if self.hypotheses < 1 or self.candidates < 1:
            raise ValueError(
                f"hypotheses and candidates must be at least 1, got {self.hypotheses} and {self.candidates}"
            )
        self.timings: dict[str, float] = {}
        self._stages = StageSet(self.bundle, threads, steps, backend)
        self._frontend = FaceFrontend(max_faces)
        embedding, self._landmark_points = tracked_landmarks(self.head)
        corners = self.head.faces[embedding.triangle]
        used, inverse = np.unique(corners, return_inverse=True)
        self._landmark_corners = inverse.reshape(corners.shape)
        self._landmark_bary = embedding.bary
        self._decode_landmarks = HypothesisDecoder(self.head, used)
        self._decode_all = HypothesisDecoder(self.head)
        self._seed = seed
        self.reset()

    def reset(self) -> None:
        """Forget every track and identity."""
        self._frontend.reset()
        self._memory: dict[str, _TrackMemory] = {}
        self._rng = np.random.default_rng(self._seed)

    def __call__(self, frame: np.ndarray, stamp: float, intrinsics: Intrinsics | None = None) -> list[Face]:
        """Faces in frame (H, W, 3) uint8 RGB taken at stamp (seconds).

        Without intrinsics a field of view of 60 degrees is assumed.

        Raises ValueError for another kind of array or a stamp that is not finite.
        """
        started = time.perf_counter()
        self.timings = {}
        with self._timed("perception"):
            tracks = self._frontend(frame, stamp)
        self._memory = {track.id: self._memory.get(track.id) or self._remember() for track in tracks}
        seen = [track for track in tracks if track.visible]
        faces = self._reconstruct(frame, seen, self._intrinsics(frame, intrinsics)) if seen else []
        self.timings["total"] = 1000 * (time.perf_counter() - started)
        return faces

    def vertices(self, face: Face, which: int | None = None) -> np.ndarray:
        """Vertices (V, 3) of one hypothesis, the selected one by default: head frame, metres."""
        index = face.selected if which is None else which
        identity = self._identity_of(face)
        return self._decode_all(identity, face.expressions[index : index + 1], face.jaws[index : index + 1])[0]

    def _identity_of(self, face: Face) -> Identity:
        memory = self._memory.get(face.id)
        if memory and memory.identity and memory.identity.revision == face.identity_revision:
            return memory.identity.identity
        return self.head.identity(face.shape)

    def _remember(self) -> _TrackMemory:
        return _TrackMemory(
            self._rng.standard_normal((self.hypotheses, self._stages.expgen.n_coefficients), dtype=np.float32)
        )

    @staticmethod
    def _intrinsics(frame: np.ndarray, given: Intrinsics | None) -> Intrinsics:
        height, width = frame.shape[:2]
        return given.scaled_to(width, height) if given else Intrinsics.from_field_of_view(width, height)

    def _reconstruct(self, frame: np.ndarray, tracks: list[Track], intrinsics: Intrinsics) -> list[Face]:
        memories = [self._memory[track.id] for track in tracks]
        seen = [SeenLandmarks.of(track.points, self._landmark_points, intrinsics) for track in tracks]
        with self._timed("context"):
            points = np.stack([track.points for track in tracks])
            inputs = encoder_inputs(frame, points, self._stages.encoder_inputs)
            encoded = _call(self._stages.expression_context, inputs)
            occlusion = np.clip(encoded.get("occlusion", np.zeros((len(tracks), 1)))[:, 0], 0, 1)
        with self._timed("expression"):
            noise = np.stack([memory.noise for memory in memories])
            drawn = self._stages.expgen(encoded["context"], noise, self._rng).astype(np.float32)
            expressions, jaws = np.split(drawn, [self.head.n_expression], axis=-1)
            jaws = jaws * np.float32(self.bundle.jaw_scale)
            if self.bundle.expression_range:
                expressions = np.clip(expressions, *self.bundle.expression_range)
        with self._timed("identity"):
            self._update_identities(tracks, memories, seen, inputs, expressions.mean(1), jaws.mean(1), occlusion)
        with self._timed("pose"):
            faces = [
                self._face(*parts, intrinsics.metric)
                for parts in zip(tracks, memories, seen, expressions, jaws, occlusion.tolist(), strict=True)
            ]
        return [face for face in faces if face]

    def _update_identities(
        self,
        tracks: list[Track],
        memories: list[_TrackMemory],
        seen: list[SeenLandmarks],
        inputs: dict[str, np.ndarray],
        expressions: np.ndarray,
        jaws: np.ndarray,
        occlusion: np.ndarray,
    ) -> None:
        """Draw and rank candidates for the tracks whose view asks for it, all in one batch.

        expressions (F, E) and jaws (F, 3) are those that the candidates are compared with the landmarks in.
        """
        qualities = [
            view_quality(track.points, _facing(track.points, memory.pose), hidden)
            for track, memory, hidden in zip(tracks, memories, occlusion, strict=True)
        ]
        rows = [i for i, memory in enumerate(memories) if wants_new_identity(memory.identity, qualities[i])]
        if not rows:
            return
        chosen = {name: array[rows] for name, array in inputs.items()}
        context = _call(self._stages.identity_context, chosen)["context"]
        shape = (len(rows), self.candidates, self._stages.idgen.n_coefficients)
        betas = self._stages.idgen(context, self._rng.standard_normal(shape, dtype=np.float32), self._rng)
        betas = betas.astype(np.float32)
        scores = _call(self._stages.idrank, chosen | {"context": context, "betas": betas})["score"]
        for row, candidates, score in zip(rows, betas, scores, strict=True):
            if not self.bundle.rank_alone:
                best = np.argsort(-score)[:_COMPARED]
                candidates = candidates[best]
                score = score[best] + self._agreement(seen[row], candidates, expressions[row], jaws[row])
            memories[row].identity = choose(self.head, candidates, score, memories[row].identity, qualities[row])
            memories[row].pose = None  # another head: the old pose is no start

    def _agreement(
        self, seen: SeenLandmarks, candidates: np.ndarray, expression: np.ndarray, jaw: np.ndarray
    ) -> np.ndarray:
        """Log weights (N,) of candidates (N, S), each in its own best pose, with an expression (E,) and jaw (3,).

        Zeros, which change nothing, where the landmarks fit no pose.
        """
        vertices = self.head.decode(candidates, np.tile(expression, (len(candidates), 1)), jaw)
        models = self._landmarks_of(vertices[:, self._decode_landmarks.indices])
        try:
            start = seen.pose(models.mean(0))
            return np.array([seen.log_weights(model, seen.pose(model, start)) for model in models])
        except NoPoseError:
            return np.zeros(len(models))

    def _landmarks_of(self, vertices: np.ndarray) -> np.ndarray:
        """Landmarks (N, L, 3) on meshes (N, V', 3) that hold only the vertices under them."""
        return np.einsum("lc,hlcx->hlx", self._landmark_bary, vertices[:, self._landmark_corners])

    def _face(
        self,
        track: Track,
        memory: _TrackMemory,
        seen: SeenLandmarks,
        expressions: np.ndarray,
        jaws: np.ndarray,
        occlusion: float,
        metric: bool,
    ) -> Face | None:
        """Weigh the hypotheses by their reprojection, pose the head by the best one; None where no pose fits."""
        identity = memory.identity.identity
        models = self._landmarks_of(self._decode_landmarks(identity, expressions, jaws))
        try:
            mean_pose = seen.pose(models.mean(0), memory.pose)
            scores = softmax(seen.log_weights(models, mean_pose))
            selected = int(scores.argmax())
            memory.pose = pose = seen.pose(models[selected], mean_pose)
        except NoPoseError:
            memory.pose = None
            return None
        x, y, width, height = (round(float(v)) for v in track.box)
        return Face(
            id=track.id, roi=(x, y, width, height), confidence=float(track.confidence), landmarks=track.points,
            rotation=pose.rotation, translation=pose.translation, metric=metric, shape=identity.betas,
            identity_revision=memory.identity.revision, identity_score=memory.identity.score,
            expressions=expressions, jaws=jaws, scores=scores, selected=selected,
            occlusion=occlusion, landmark_error=float(seen.distances(models[selected], pose).mean()),
        )  # fmt: skip

    @contextmanager
    def _timed(self, name: str) -> Iterator[None]:
        started = time.perf_counter()
        yield
        self.timings[name] = 1000 * (time.perf_counter() - started)


def tracked_landmarks(head: HeadModel) -> tuple[LandmarkEmbedding, np.ndarray]:
    """The head's embedding that MediaPipe's points are compared with, and which of the 468 points (L,) it stands for.

    FLAME has no embedding of all of them, but its 68 landmarks and MediaPipe's points at the same places. Raises
    BundleError when the head knows no such points.
    """
    for embedding in (head.embeddings[name] for name in _EMBEDDINGS if name in head.embeddings):
        if embedding.points is not None:
            return embedding, embedding.points
        if len(embedding.triangle) == N_POINTS:
            return embedding, np.arange(N_POINTS)
    raise BundleError("the head model has no landmarks to find its pose by; run `ofer import` again with --landmarks")


def _call(stage, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Run a stage on those of the inputs that it asks for."""
    return stage(**{name: inputs[name] for name in stage.inputs})


def _facing(points: np.ndarray, pose: HeadPose | None) -> np.ndarray:
    """Direction of the face (3,) in the camera frame: from the last pose, else from the landmarks' own depth."""
    if pose is not None:
        return pose.rotation[:, 2]
    across, down = points[263] - points[33], points[152] - points[10]
    normal = np.cross(down, across)
    return normal / max(float(np.linalg.norm(normal)), 1e-9)
