"""A bundle's stages, ready to call: encoders and ranking as graphs, IdGen and ExpGen as samplers in head units."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from ofer_models.bundle.graphs import graph_specs
from ofer_models.bundle.manifest import Bundle, BundleError, StageSpec
from ofer_models.bundle.tensors import StageError
from ofer_models.runtime.backend import open_backend
from ofer_models.runtime.interface import Backend
from ofer_models.runtime.recorded_noise import RecordedNoise
from ofer_models.runtime.sampler import Stage
from ofer_models.runtime.solvers import SolverTable, solver_table

_FEWEST_STEPS = 3
_BESIDE = ("idrank",)  # with idgen, what identities are drawn with, beside the frames


class CoefficientSampler:
    """Draws coefficients (F, N, D), in the head model's units, from contexts and starting noise."""

    def __init__(self, spec: StageSpec, backend: Backend, steps: int | None = None, urgent: bool = True) -> None:
        """steps overrides the manifest's; urgent: see `Backend`. Raises StageError naming what does not fit."""
        self.spec = spec
        self.set_steps(steps)
        graphs = graph_specs(spec)
        self._sampler = backend.sampler(graphs["cond"], graphs["step"], urgent)
        self._recorded = RecordedNoise(spec.files["noise"]) if "noise" in spec.files else None
        if self._sampler.n_coefficients != len(spec.mean):
            raise StageError(
                f"{spec.files['step'].name} draws {self._sampler.n_coefficients} coefficients, "
                f"the manifest scales {len(spec.mean)}"
            )

    def set_steps(self, steps: int | None) -> None:
        """Sampling steps from now on; None: the manifest's. Raises ValueError for a count that the solver refuses."""
        spec = self.spec
        self.table: SolverTable = solver_table(spec.solver, spec.steps if steps is None else steps, spec.spacing)
        self._shorter: dict[int, SolverTable] = {}

    @property
    def n_coefficients(self) -> int:
        return self._sampler.n_coefficients

    def __call__(
        self, context: np.ndarray, noise: np.ndarray, rng: np.random.Generator | None = None, share: float = 1.0
    ) -> np.ndarray:
        """context (F, C), noise (F, N, D), both float32; rng only for solvers that add noise on the way.

        share 0..1: of the steps, when there is no time for all of them; three are taken at least. A bundle that brings
        its own noise (made with --released-quirks) uses that, and its own number of steps.
        """
        if self._recorded:
            noise, rng = self._recorded.start(noise.shape), self._recorded.stream()
        if self.spec.temperature != (1, 1):
            noise = noise * self.spec.scales(noise.shape[1])
        return self.spec.raw(self._sampler.sample(context, noise, self._table(share), rng))

    def _table(self, share: float) -> SolverTable:
        steps = max(_FEWEST_STEPS, round(share * len(self.table.timesteps)))
        # Released samplers and recorded noise have their own number of steps, which cannot be changed.
        if steps >= len(self.table.timesteps) or self._recorded or self.spec.solver == "released_ddim":
            return self.table
        if steps not in self._shorter:
            self._shorter[steps] = solver_table(self.spec.solver, steps, self.spec.spacing)
        return self._shorter[steps]


class StageSet:
    """The five stages of a bundle on one of the runtimes; `backend` names the one in use."""

    def __init__(
        self, bundle: Bundle, threads: int = 1, steps: int | None = None, backend: str | Backend = "auto"
    ) -> None:
        """threads per stage; steps overrides both samplers' step count; backend: a name for
        `runtime.backend.open_backend`, or one that is open already.

        Raises BundleError naming what fails.
        """
        graphs = {name: spec for name, spec in bundle.stages.items() if spec.kind == "graph"}
        try:
            runtime = open_backend(backend, bundle, threads) if isinstance(backend, str) else backend
            loaded = {
                name: runtime.load(graph_specs(spec)["graph"], name not in _BESIDE) for name, spec in graphs.items()
            }
            self.idgen = CoefficientSampler(bundle.stages["idgen"], runtime, steps, urgent=False)
            self.expgen = CoefficientSampler(bundle.stages["expgen"], runtime, steps)
            bundle.check_unchanged()
        except ValueError as error:  # a StageError, or a solver, spacing or step count that does not exist
            raise BundleError(f"bundle {bundle.name} at {bundle.path}: {error}") from None
        wanted = {"idgen": bundle.n_shape, "expgen": bundle.n_expression + 3}
        for name, count in wanted.items():
            drawn = getattr(self, name).n_coefficients
            if drawn != count:
                raise BundleError(
                    f"bundle {bundle.name} at {bundle.path}: {name} draws {drawn} coefficients, the head takes {count}"
                )
        self.backend = runtime.name
        self.runtime = runtime
        self.identity_context = loaded["identity_context"]
        self.idrank = loaded["idrank"]
        self.expression_context = loaded["expression_context"]
        self.encoder_inputs = (
            self.identity_context.inputs.keys() | self.idrank.inputs.keys() | self.expression_context.inputs.keys()
        ) - {"betas", "context"}

    @staticmethod
    def empty_inputs(stage: Stage, sizes: Mapping[str, int]) -> dict[str, np.ndarray]:
        """Zeros for a stage's inputs at these sizes of its free dimensions."""
        return {
            name: np.zeros([sizes[dim] if isinstance(dim, str) else dim for dim in dims], np.float32)
            for name, dims in stage.inputs.items()
        }

    def warm_up(self, faces: int, hypotheses: int, share: float = 1.0) -> None:
        """Run once, at this size, what a frame needs."""
        for stage in (self.expression_context, self.identity_context):
            stage(**self.empty_inputs(stage, {"F": faces}))
        context = np.zeros((faces, int(self.expgen.spec.inputs["context"][-1])), np.float32)
        noise = np.zeros((faces, hypotheses, self.expgen.n_coefficients), np.float32)
        self.expgen(context, noise, np.random.default_rng(0), share)

    def close(self) -> None:
        """Give back what is held on a GPU. Nothing of this can be called any more."""
        self.runtime.close()
