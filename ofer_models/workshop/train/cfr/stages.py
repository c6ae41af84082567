"""`ofer train cfr`: from files to a learner, its pictures and what it becomes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from ofer_models.bundle.manifest import ALBEDO
from ofer_models.files.hashing import sha256_of
from ofer_models.head.albedo import Albedo
from ofer_models.head.model import HeadModel
from ofer_models.workshop.errors import DataError
from ofer_models.workshop.pictures.people import dataset
from ofer_models.workshop.train.accelerator import Accelerator
from ofer_models.workshop.train.cfr import learners
from ofer_models.workshop.train.cfr.pictures import AlignedPhotographs, CleanFaces, CleanPeople
from ofer_models.workshop.train.cfr.skin import Parser, skin_by_colour
from ofer_models.workshop.train.cfr.training import Learner, Plan, train_stage
from ofer_models.workshop.train.eyes.training import NETWORK as LANDMARKS
from ofer_models.workshop.train.regressor.people import PeopleHeads


@dataclass(frozen=True)
class Sources:
    """What a stage is trained with.

    basel: the Basel Face Model, for CFR's own regressor; without it the small one of the open head `head` is trained.
    start: the weights at the beginning: needed with basel, and those of stage 1 by default in stage 2. data: a user's
    aligned photographs; people: the folder of `ofer train eyes` otherwise, of which the first `pictures` are looked
    through. parsing, recognition: networks for stage 1.
    """

    head: Path
    people: Path
    pictures: int = 40_000
    held_out: int = 1_500
    basel: Path | None = None
    start: Path | None = None
    data: Path | None = None
    parsing: Path | None = None
    recognition: Path | None = None


def train_cfr(
    stage: int, sources: Sources, work: Path, plan: Plan, *, seed: int = 1, again: bool = False,
    accelerator: Accelerator | None = None, log: Callable[[str], None] = print,
) -> Path:  # fmt: skip
    """Train a stage in `work` and return the file of its weights: cfr1 or cfr2, .pth of CFR's regressor and .pt of the
    small one. One that is there is not trained again, unless again: it is kept aside then.

    Raises DataError where a file is missing or not as it should be.
    """
    accelerator = accelerator or Accelerator()
    suffix = ".pth" if sources.basel else ".pt"
    result, checkpoint = work / f"cfr{stage}{suffix}", work / f"cfr{stage}.checkpoint"
    if again and accelerator.main:
        for path in (result, checkpoint):
            if path.is_file():
                path.replace(path.with_suffix(f".before{path.suffix}"))
    accelerator.wait()
    if result.is_file():
        log(f"cfr{stage}: {result} is there already; `--again` trains it anew")
        return result
    if stage == 2 and sources.start is None:
        sources = replace(sources, start=work / f"cfr1{suffix}")
        if not sources.start.is_file():
            raise DataError(f"{sources.start} is not there: train --stage 1 first, or give --start")
    torch.manual_seed(seed)
    learner, learned, held_out = _learner(sources)
    given = {name: path for name in ("head", "basel", "start", "parsing", "recognition")
             if (path := getattr(sources, name)) is not None and (name != "head" or sources.basel is None)}  # fmt: skip
    trained = train_stage(
        stage, learner, learned, held_out, work, plan, seed=seed, accelerator=accelerator, log=log,
        skin=Parser(sources.parsing) if sources.parsing else skin_by_colour,
        recognition=learners.recognition_network(sources.recognition) if sources.recognition else None,
        made_of={name: sha256_of(path) for name, path in given.items()},
    )  # fmt: skip
    if accelerator.main:
        learners.save(trained, result, pictures=len(learned), steps=plan.schedule(len(learned)).steps)
        checkpoint.unlink(missing_ok=True)
    accelerator.wait()
    return result


def _learner(sources: Sources) -> tuple[Learner, CleanFaces, CleanFaces]:
    """A learner, and the faces that it learns from and is watched on."""
    if (sources.basel is None) != (sources.data is None):
        raise DataError("CFR's regressor (--bfm) is trained on photographs (--data), the open head's on renderings")
    if sources.basel is not None:
        if sources.start is None:
            raise DataError("CFR fine-tunes: give the weights of its baseline or of stage 1 with --start")
        learner = learners.basel_learner(sources.basel, sources.start)
        return learner, *AlignedPhotographs.find(sources.data, learner.face.size)
    head = HeadModel.load(sources.head)
    folders = (("pictures", sources.pictures), ("held_out", sources.held_out))
    learned, held_out = (CleanPeople.load(head, sources.people / name, count) for name, count in folders)
    first = PeopleHeads.load(head, sources.people / "pictures", min(sources.pictures, 4 * dataset.SHARD))
    path = sources.head.with_name(ALBEDO)
    albedo = Albedo.load(path, head) if path.is_file() else None
    learner = learners.open_learner(head, albedo, first, sources.start, sources.people / LANDMARKS)
    return learner, learned, held_out
