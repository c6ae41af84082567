"""A bundle's stages, ready to call: encoders, ranking, landmarks and regressor as graphs, IdGen and ExpGen in head
units."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, field

import numpy as np

from ofer_models.bundle.graphs import graph_specs
from ofer_models.bundle.manifest import LANDMARKS, REGRESSOR, STAGES, Bundle, BundleError, StageSpec
from ofer_models.bundle.regression import COEFFICIENTS, CROP, RegressorSpec
from ofer_models.bundle.tensors import StageError, refuse_other_names, text
from ofer_models.runtime.backend import open_backend
from ofer_models.runtime.interface import Backend
from ofer_models.runtime.recorded_noise import RecordedNoise
from ofer_models.runtime.sampler import Sampler, Stage
from ofer_models.runtime.solvers import SolverTable, stage_table

_FEWEST_STEPS = 3
_LACKING = {
    True: "has no regressor: use method ofer, or make one (`ofer train regressor`, `ofer import --deca`)",
    False: "is a regressor alone: use method regressor",
}
_POINTS, LANDMARK_CROP = 478, "crop128"
# What the stage `landmarks` takes and gives, whatever its manifest says: px of the crop, and 0..1.
_LANDMARKS = (
    {LANDMARK_CROP: ("F", 3, 128, 128)},
    {"points": ("F", _POINTS, 2), "deviation": ("F", _POINTS), "visible": ("F", _POINTS)},
)
_BESIDE = ("idgen", "idrank")  # what identities are drawn with, beside the frames


@dataclass(frozen=True)
class _Drawing:
    """Networks and the steps they take; shorter: tables of fewer, by number, unless the steps are fixed."""

    sampler: Sampler
    table: SolverTable
    fixed: bool
    shorter: dict[int, SolverTable] = field(default_factory=dict)


class CoefficientSampler:
    """Draws coefficients (F, N, D), in the head model's units, from contexts and starting noise. steps: those that were
    asked for; None: the bundle's."""

    def __init__(
        self, spec: StageSpec, backend: Backend, steps: int | None = None, urgent: bool = True,
        check: Callable[[], None] = lambda: None,
    ) -> None:  # fmt: skip
        """steps: see `set_steps`; urgent: see `Backend`; check: called whenever graphs were loaded, may refuse them.

        Raises StageError naming what does not fit.
        """
        self.spec = spec
        self._backend, self._urgent, self._check = backend, urgent, check
        self._samplers: dict[bool, Sampler] = {}
        self._recorded = RecordedNoise(spec.files["noise"]) if "noise" in spec.files else None
        stage_table(spec)  # wrong steps of networks that are not loaded yet are told at once, too
        self.set_steps(steps)

    def set_steps(self, steps: int | None) -> None:
        """Sampling steps from now on; None: the bundle's, which are those of the distilled networks where it has some.
        A number is of the stage's own networks, which are loaded when they are first asked for. Raises ValueError for a
        count that the solver refuses, or for graphs that are.
        """
        spec = self.spec.usual if steps is None else self.spec
        table = stage_table(spec, steps)
        distilled = bool(spec.timesteps)
        if distilled not in self._samplers:
            self._samplers[distilled] = self._load(spec)
        self.steps = steps
        # At once: identities are drawn on a thread of their own.
        self._drawing = _Drawing(self._samplers[distilled], table, distilled or self._recorded is not None)

    def sharing(self, steps: int | None) -> CoefficientSampler:
        """A sampler on the same networks that takes so many steps, whatever this one is set to. Raises as
        `set_steps`."""
        other = copy(self)
        other.set_steps(steps)
        return other

    @property
    def table(self) -> SolverTable:
        """The steps that are taken when there is time for all of them."""
        return self._drawing.table

    @property
    def fixed_steps(self) -> bool:
        """Whether all steps are taken, whatever share of them is asked for."""
        return self._drawing.fixed

    @property
    def n_coefficients(self) -> int:
        return self._drawing.sampler.n_coefficients

    def __call__(
        self, context: np.ndarray, noise: np.ndarray, rng: np.random.Generator | None = None, share: float = 1.0
    ) -> np.ndarray:
        """context (F, C), noise (F, N, D), both float32; rng only for solvers that add noise on the way.

        share 0..1: of the steps, when there is no time for all of them; three are taken at least. A bundle that brings
        its own noise (made with --released-quirks) uses that, and its own number of steps; distilled networks are made
        for theirs.
        """
        if self._recorded:
            noise, rng = self._recorded.start(noise.shape), self._recorded.stream()
        if self.spec.temperature != (1, 1):
            noise = noise * self.spec.scales(noise.shape[1])
        drawing = self._drawing
        return self.spec.raw(drawing.sampler.sample(context, noise, self._table(drawing, share), rng))

    def _load(self, spec: StageSpec) -> Sampler:
        graphs = graph_specs(spec)
        sampler = self._backend.sampler(graphs["cond"], graphs["step"], self._urgent)
        if sampler.n_coefficients != len(spec.mean):
            raise StageError(
                f"{spec.files['step'].name} draws {sampler.n_coefficients} coefficients, "
                f"the manifest scales {len(spec.mean)}"
            )
        self._check()
        return sampler

    def _table(self, drawing: _Drawing, share: float) -> SolverTable:
        full = drawing.table
        steps = max(_FEWEST_STEPS, round(share * len(full.timesteps)))
        if steps >= len(full.timesteps) or drawing.fixed or self.spec.solver == "released_ddim":
            return full
        if steps not in drawing.shorter:
            drawing.shorter[steps] = stage_table(self.spec, steps)
        return drawing.shorter[steps]


class Regressor:
    """Coefficients of a head, by group, from crops: one answer."""

    def __init__(self, spec: StageSpec, backend: Backend, n_shape: int, n_expression: int) -> None:
        """n_shape, n_expression: of the head, which may have more than are told. Raises StageError."""
        self.stage = backend.load(graph_specs(spec)["graph"])
        self.spec: RegressorSpec = spec.regression
        self._sizes = {"shape": n_shape, "expression": n_expression}

    def __call__(self, crops: np.ndarray) -> dict[str, np.ndarray]:
        """Groups (F, size) of crops (F, 3, S, S), cut as the spec says; shape and expression as long as the head's."""
        groups = self.spec.split(self.stage(**{CROP: crops})[COEFFICIENTS])
        for name, size in self._sizes.items():
            groups[name] = np.pad(groups[name], ((0, 0), (0, size - groups[name].shape[1])))
        return groups


class StageSet:
    """Stages of a bundle on one of the runtimes, each an attribute; `backend` names the runtime in use. landmarks is
    None where the bundle has none, or OFER's five are not asked for; regressor where it is not asked for."""

    idgen: CoefficientSampler
    expgen: CoefficientSampler
    identity_context: Stage
    idrank: Stage
    expression_context: Stage
    landmarks: Stage | None = None
    regressor: Regressor | None = None

    def __init__(
        self, bundle: Bundle, threads: int = 1, steps: int | None = None, backend: str | Backend = "auto",
        names: Sequence[str] = STAGES,
    ) -> None:  # fmt: skip
        """threads per stage; steps overrides both samplers' step count; backend: a name for
        `runtime.backend.open_backend`, or one that is open already. names: the stages to load, OFER's five by default.

        Raises BundleError naming what fails.
        """
        if LANDMARKS in bundle.stages and set(names) >= set(STAGES):
            names = (*names, LANDMARKS)
        missing = [name for name in names if name not in bundle.stages]
        if missing:
            raise BundleError(f"bundle {bundle.name} at {bundle.path} {_LACKING[REGRESSOR in missing]}")
        graphs = {name: bundle.stages[name] for name in names if bundle.stages[name].kind == "graph"}
        try:
            _check_landmarks(graphs.get(LANDMARKS))
            runtime = open_backend(backend, bundle, threads) if isinstance(backend, str) else backend
            loaded = {
                name: runtime.load(graph_specs(spec)["graph"], name not in _BESIDE) for name, spec in graphs.items()
            }
            for name in (name for name in names if bundle.stages[name].kind == "sampler"):
                urgent, check = name not in _BESIDE, bundle.check_unchanged
                setattr(self, name, CoefficientSampler(bundle.stages[name], runtime, steps, urgent, check))
            if REGRESSOR in names:
                self.regressor = Regressor(bundle.stages[REGRESSOR], runtime, bundle.n_shape, bundle.n_expression)
            bundle.check_unchanged()
        except ValueError as error:  # a StageError, or a solver, spacing or step count that does not exist
            raise BundleError(f"bundle {bundle.name} at {bundle.path}: {error}") from None
        wanted = {"idgen": bundle.n_shape, "expgen": bundle.n_expression + 3}
        for name, count in ((name, count) for name, count in wanted.items() if name in names):
            drawn = getattr(self, name).n_coefficients
            if drawn != count:
                raise BundleError(
                    f"bundle {bundle.name} at {bundle.path}: {name} draws {drawn} coefficients, the head takes {count}"
                )
        self.backend = runtime.name
        self.runtime = runtime
        for name, stage in loaded.items():
            setattr(self, name, stage)
        inputs = {name for stage in loaded.values() for name in stage.inputs}
        self.encoder_inputs = inputs - {"betas", "context", LANDMARK_CROP}

    def sharing(self, steps: int | None) -> StageSet:
        """The same stages for somebody else, whose samplers take so many steps. Raises ValueError for a count that is
        refused."""
        other = copy(self)
        for name in ("idgen", "expgen"):
            if hasattr(self, name):
                setattr(other, name, getattr(self, name).sharing(steps))
        return other

    @property
    def batch_key(self) -> tuple:
        """Equal for those that share their stages and take as many steps."""
        return id(self.runtime), self.expgen.steps if hasattr(self, "expgen") else None

    @staticmethod
    def empty_inputs(stage: Stage, sizes: Mapping[str, int]) -> dict[str, np.ndarray]:
        """Zeros for a stage's inputs at these sizes of its free dimensions."""
        return {
            name: np.zeros([sizes[dim] if isinstance(dim, str) else dim for dim in dims], np.float32)
            for name, dims in stage.inputs.items()
        }

    def warm_up(self, faces: int, hypotheses: int, share: float = 1.0) -> None:
        """Run once, at this size, what a frame needs."""
        for stage in filter(None, (self.landmarks, self.expression_context, self.identity_context)):
            stage(**self.empty_inputs(stage, {"F": faces}))
        context = np.zeros((faces, int(self.expgen.spec.inputs["context"][-1])), np.float32)
        noise = np.zeros((faces, hypotheses, self.expgen.n_coefficients), np.float32)
        self.expgen(context, noise, np.random.default_rng(0), share)

    def close(self) -> None:
        """Give back what is held on a GPU. Nothing of this can be called any more."""
        self.runtime.close()


def _check_landmarks(spec: StageSpec | None) -> None:
    """Refuse a stage `landmarks` of other tensors (StageError): what reads it knows its points by number."""
    if spec is None:
        return
    for kind, wanted, found in zip(("input", "output"), _LANDMARKS, (spec.inputs, spec.outputs), strict=True):
        refuse_other_names(f"stage {LANDMARKS}", kind, wanted, found)
        for name, dims in wanted.items():
            if tuple(found[name]) != dims:
                raise StageError(f"stage {LANDMARKS}: {kind} {name!r} is {text(found[name])}, should be {text(dims)}")
