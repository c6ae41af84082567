"""`ofer train regressor` and `ofer train learner`: one answer a face."""

from __future__ import annotations

from pathlib import Path

from ofer_models.cli.console import progress, say


def train_open_regressor(
    head: Path, work: Path, pictures: int, epochs: int | None, into: Path | None, *, clean: bool, seed: int,
    workers: int, again: bool, smoke: bool,
) -> None:  # fmt: skip
    """The regressor upon the landmark network of `work`, or one that never saw a covered face (clean); written into a
    bundle where one is given."""
    from ofer_models.head.model import HeadModel
    from ofer_models.workshop.train.accelerator import Distributed
    from ofer_models.workshop.train.regressor import training, uncovered
    from ofer_models.workshop.train.regressor.bundle import write_regressor
    from ofer_models.workshop.train.regressor.targets import open_regressor

    accelerator = Distributed()
    if clean:
        plan = uncovered.Plan.smoke() if smoke else uncovered.Plan(pictures, epochs or uncovered.Plan.epochs)
        network = uncovered.train_uncovered(
            head, work / "uncovered", work, plan, seed=seed, again=again, accelerator=accelerator, log=say
        )
    else:
        plan = training.Plan.smoke() if smoke else training.Plan(pictures, epochs=epochs or training.Plan.epochs)
        network = training.train_regressor(
            head, work / "regressor", work, plan, seed=seed, workers=workers, again=again, progress=progress,
            accelerator=accelerator, log=say,
        )  # fmt: skip
    if into and accelerator.main:
        model = HeadModel.load(head)
        write_regressor(network, open_regressor(model), model.sha256, into)
        say(f"written into {into}; `ofer doctor --bundle {into}` tries it, `method:=regressor` uses it")


def train_student(
    teacher: Path, data: Path | None, work: Path, pictures: int, backbone: str, epochs: int, into: Path | None, *,
    seed: int, smoke: bool,
) -> None:  # fmt: skip
    """A student of the regressor of a bundle, on photographs or on the renderings of `work`."""
    import hashlib

    from ofer_models.bundle.manifest import Bundle
    from ofer_models.workshop.bundle_writer import Provenance
    from ofer_models.workshop.pictures.people import dataset
    from ofer_models.workshop.train.accelerator import Distributed
    from ofer_models.workshop.train.regressor import learner
    from ofer_models.workshop.train.regressor.bundle import write_regressor
    from ofer_models.workshop.train.regressor.faces import Teacher, photographed_faces, rendered_faces, taught_faces
    from ofer_models.workshop.train.regressor.people import PeopleHeads

    accelerator, master = Distributed(), Teacher(Bundle.load(teacher))
    plan, folder = learner.Plan(1, 16) if smoke else learner.Plan(epochs), work / f"learner-{backbone}"
    folder.mkdir(parents=True, exist_ok=True)
    if data is None:
        count = dataset.SHARD if smoke else pictures
        faces = rendered_faces(PeopleHeads.load(master.bundle.head, work / "pictures", count))
        source = f"{count} of {(work / 'pictures').resolve()}"
        origin, licence = "trained by this project on renderings of people (`ofer train learner`)", "Apache-2.0"
    else:
        faces, source = photographed_faces(data, progress, say), str(data.resolve())
        origin, licence = f"trained by `ofer train learner` on {data.name}", "that of the pictures and of the teacher"
    spec = learner.student_spec(master.spec, backbone)
    cache = folder / "faces.npz"
    key = {"teacher": master.sha256, "faces": hashlib.sha256(source.encode()).hexdigest()[:16], "backbone": backbone}
    if accelerator.main:
        taught = taught_faces(master, spec.crop, faces, cache, key)
    accelerator.wait()
    if not accelerator.main:
        taught = taught_faces(master, spec.crop, (), cache, key)
    say(f"{len(taught)} uncovered faces")
    student = learner.train_learner(
        master, taught, backbone, work / "landmarks.pt", folder, plan, seed=seed, accelerator=accelerator, log=say
    )
    if into and accelerator.main:
        record = master.bundle.files[master.bundle.stages["regressor"].files["graph"].name]
        if not record.commercial_use:
            licence = f"{licence}; the teacher's: {record.licence}"
        made_of = Provenance(origin, licence, data is None and record.commercial_use)
        write_regressor(student, spec, master.bundle.head.sha256, into, made_of)
        say(f"written into {into}")
