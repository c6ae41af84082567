"""`ofer train distil`: a sampler of a bundle that takes one step."""

from __future__ import annotations

from pathlib import Path

from ofer_models.cli.console import progress, say


def train_distil(
    bundle: Path | None, stage: str, data: Path | None, work: Path, pictures: int, *, seed: int,
    workers: int, again: bool, smoke: bool,
) -> None:  # fmt: skip
    """Distil a stage of a bundle, on contexts of renderings in `work` or of photographs, and write it there."""
    from ofer_models.bundle.manifest import Bundle, default_bundle
    from ofer_models.workshop.train.accelerator import Distributed
    from ofer_models.workshop.train.distil import Plan, distil, write_student
    from ofer_models.workshop.train.face_contexts import photographed_contexts, rendered_contexts

    loaded = Bundle.load(bundle or default_bundle())
    accelerator, plan = Distributed(), Plan.smoke() if smoke else Plan()
    if data is None:
        contexts, source = rendered_contexts(
            loaded, stage, work / "pictures" / "train", min(pictures, plan.contexts), seed=seed, workers=workers,
            accelerator=accelerator, progress=progress,
        )  # fmt: skip
    else:
        contexts, source = photographed_contexts(loaded, stage, data, progress=progress, say=say)
    student, _ = distil(loaded, stage, contexts, work, plan, seed=seed, again=again, accelerator=accelerator, log=say)
    if accelerator.main:
        write_student(loaded, stage, student, source)
        say(f"written into {loaded.path}; `ofer sampling --bundle {loaded.path}` measures it")
