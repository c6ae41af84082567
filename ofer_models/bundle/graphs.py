"""Which graphs a stage has, and the tensors that its manifest entry promises of each."""

from __future__ import annotations

from ofer_models.bundle.manifest import StageSpec
from ofer_models.bundle.tensors import ANY, GraphSpec, StageError


def all_graphs(stage: StageSpec) -> dict[str, GraphSpec]:
    """Every graph of a stage by file name, those of its distilled variant too."""
    return {
        graph.path.name: graph for one in (stage, stage.usual) for graph in graph_specs(one).values()
    }


def graph_specs(stage: StageSpec) -> dict[str, GraphSpec]:
    """The graphs of a stage by part (`graph`, or `cond` and `step`) with the tensors that the manifest promises.

    A sampler's manifest entry states contexts (F, C) and noise (F, N, D); the tensors of its two graphs follow. Raises
    StageError where it does not.
    """
    if stage.kind in ("graph", "regressor"):
        return {"graph": GraphSpec(stage.files["graph"], stage.inputs, stage.outputs)}
    if not {"noise", "context"} <= stage.inputs.keys():
        raise StageError(f"the manifest lacks the inputs context and noise of stage {stage.name}")
    samples, context = stage.inputs["noise"], stage.inputs["context"]
    cond = GraphSpec(stage.files["cond"], {"context": context, "timesteps": ("K",)}, {"modulation": ("K", "F", ANY)})
    step = GraphSpec(
        stage.files["step"],
        {"x": samples, "x0_prev": samples, "modulation": ("F", ANY), "coefficients": (5,)},
        {"x_next": samples, "x0": samples},
    )
    return {"cond": cond, "step": step}
