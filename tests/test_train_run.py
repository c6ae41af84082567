"""`ofer train` as a whole on a tiny head: its parts, going on after a stop, photographs in their layouts, processes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from conftest import ROOT
from test_train import HEAD, NAMES, SHAPES, Stopped, quiet, random_pictures, same_weights, symmetric_head

from ofer_models.head.model import HeadModel
from ofer_models.workshop.bundle_writer import Provenance
from ofer_models.workshop.errors import DataError
from ofer_models.workshop.pictures.dataset import PictureSet
from ofer_models.workshop.train import photographs
from ofer_models.workshop.train.loop import Schedule
from ofer_models.workshop.train.open_bundle import OpenTraining, Plan
from ofer_models.workshop.train.photographs import Photographs, find, read_parameters

torch.set_num_threads(1)
TINY = Plan(
    80, 0, context=Schedule(4, 16, 1e-3), idgen=Schedule(6, 16, 1e-3), expgen=Schedule(4, 16, 1e-3),
    idrank=Schedule(3, 8, 1e-3), rank_faces=12, visibility=Schedule(3, 8, 1e-3), photographs=4,
)  # fmt: skip


@dataclass(frozen=True)
class Arrays:
    """Pictures that are there already."""

    provenance: Provenance = Provenance("made up", "none", False)  # noqa: RUF009

    def prepare(self, progress) -> None:
        pass

    def load(self) -> PictureSet:
        return random_pictures(80, 1)


@pytest.fixture
def head_path(tmp_path) -> Path:
    np.savez(tmp_path / "head.npz", **symmetric_head())
    return tmp_path / "head.npz"


def run(head_path: Path, work: Path, part: str, log=quiet, again: bool = False) -> None:
    training = OpenTraining(head_path, work, TINY, Arrays(), log=log)
    training.run(lambda iterable, text, total: iterable, work / "bundle", part, again)


def weights(path: Path) -> dict:
    return torch.load(path, weights_only=True)


def test_parts_train_what_they_need_and_no_more(head_path, tmp_path):
    run(head_path, tmp_path / "a", "idrank")
    made = {path.name for path in (tmp_path / "a").iterdir()}
    assert {"context.pt", "idgen.pt", "idrank.pt", "idgen.png", "idrank.json"} <= made
    assert not made & {"expgen.pt", "bundle", "idgen.checkpoint"}
    lines: list[str] = []
    run(head_path, tmp_path / "a", "idgen", lines.append)
    assert lines == [f"{name}: taken from {tmp_path / 'a' / name}.pt" for name in ("context", "idgen")]
    lines.clear()
    before = weights(tmp_path / "a" / "idgen.pt")
    run(head_path, tmp_path / "a", "idgen", lines.append, again=True)
    assert "idgen: idgen.pt set aside as idgen.before.pt" in lines
    assert "idrank: idrank.pt set aside as idrank.before.pt" in lines  # it ranks what idgen draws
    assert same_weights(before, weights(tmp_path / "a" / "idgen.pt")) and not (tmp_path / "a" / "idrank.pt").exists()


def test_a_stopped_run_ends_as_one_that_was_not_stopped(head_path, tmp_path, monkeypatch):
    """Stopped in the middle of IdGen's training, with a checkpoint after every step."""
    from ofer_models.workshop.train import open_bundle

    keeper = open_bundle.Keeper
    monkeypatch.setattr(open_bundle, "Keeper", lambda path, curves: keeper(path, 0.0, curves))

    def stop(line: str) -> None:
        if line.startswith("idgen: step 4/"):
            raise Stopped

    with pytest.raises(Stopped):
        run(head_path, tmp_path / "stopped", "idgen", stop)
    assert (tmp_path / "stopped" / "idgen.checkpoint").exists()
    lines: list[str] = []
    run(head_path, tmp_path / "stopped", "idgen", lines.append)
    assert "idgen: goes on from step 3 of 6" in lines
    run(head_path, tmp_path / "whole", "idgen")
    assert same_weights(weights(tmp_path / "stopped" / "idgen.pt"), weights(tmp_path / "whole" / "idgen.pt"))
    histories = [json.loads((tmp_path / name / "idgen.json").read_text()) for name in ("stopped", "whole")]
    assert histories[0] == histories[1] and len(histories[0]) == 6


SCRIPT = """
import os
import signal
import sys
import torch
from torch import nn
from ofer_models.workshop.train.loop import Keeper, Schedule, train
from ofer_models.workshop.train.accelerator import Distributed
from pathlib import Path
torch.manual_seed(0)
x = torch.randn(64, 4)
accelerator = Distributed()
network = nn.Linear(4, 4)
seen, steps = [], []
def loss(net, index, noise):
    steps.append(index)
    if len(steps) == int(os.environ.get("KILL_AT", 0)):
        os.kill(os.getpid(), signal.SIGKILL)
    return ((net(x[index].to(accelerator.device)) - x[index].to(accelerator.device)) ** 2).mean()
trained, history = train(network, loss, 64, Schedule(20, 16, 0.1, average=0.0), name="net",
                         validate=lambda net: float(((net(x) - x) ** 2).mean()), accelerator=accelerator,
                         keeper=Keeper(Path(sys.argv[1]) / "net.checkpoint", 0.0), log=lambda line: seen.append(line))
if accelerator.main:
    result = {"weight": trained.weight.data, "lines": len(seen), "count": accelerator.count, "steps": len(steps)}
    torch.save(result, Path(sys.argv[1], "done.pt"))
"""


@pytest.mark.parametrize("processes", [1, pytest.param(2, marks=pytest.mark.long)])
def test_accelerate_trains_as_torch_alone(tmp_path, processes):
    """One process or two, which share every batch: the mean gradient, and so the weights, are the same."""
    pytest.importorskip("accelerate", reason="`make train-env`")
    launcher = ["-m", "torch.distributed.run", "--nproc_per_node", str(processes), "--master_port", "29577"]
    done = run_script(tmp_path, launcher if processes > 1 else [])
    assert done.returncode == 0, done.stderr[-2000:]
    result = torch.load(tmp_path / "done.pt", weights_only=True)
    assert result["count"] == processes and result["lines"] == 10
    torch.testing.assert_close(result["weight"], weight_of_torch_alone(), atol=1e-5, rtol=1e-5)


def test_a_killed_process_is_continued_to_the_same_weights(tmp_path):
    """SIGKILL in the middle of step 13, as a accelerator that goes down."""
    pytest.importorskip("accelerate", reason="`make train-env`")
    assert run_script(tmp_path, [], KILL_AT="13").returncode == -signal.SIGKILL
    assert not (tmp_path / "done.pt").exists()
    assert run_script(tmp_path, []).returncode == 0
    result = torch.load(tmp_path / "done.pt", weights_only=True)
    assert result["steps"] == 20 - 12
    assert torch.equal(result["weight"], weight_of_torch_alone())


def run_script(folder: Path, launcher: list[str], **environment: str) -> subprocess.CompletedProcess:
    (folder / "script.py").write_text(SCRIPT)
    command = [sys.executable, *launcher, str(folder / "script.py"), str(folder)]
    variables = os.environ | {"PYTHONPATH": f"{ROOT}:{os.environ.get('PYTHONPATH', '')}", "OMP_NUM_THREADS": "1"}
    variables |= {"ACCELERATE_USE_CPU": "true"} | environment
    return subprocess.run(command, env=variables, capture_output=True, text=True, timeout=300)


def weight_of_torch_alone() -> torch.Tensor:
    torch.manual_seed(0)
    x = torch.randn(64, 4)
    from torch import nn

    from ofer_models.workshop.train.loop import train

    network = nn.Linear(4, 4)
    trained, _ = train(
        network, lambda net, index, _: ((net(x[index]) - x[index]) ** 2).mean(), 64, Schedule(20, 16, 0.1, average=0.0),
        validate=lambda net: float(((net(x) - x) ** 2).mean()), name="net", log=quiet,
    )  # fmt: skip
    return trained.weight.data


@pytest.fixture
def own_layout(tmp_path) -> Path:
    for number, actor in enumerate(("anna", "ben")):
        for part in ("images", "parameters"):
            (tmp_path / "own" / part / actor).mkdir(parents=True)
        cv2.imwrite(str(tmp_path / f"own/images/{actor}/1.jpg"), np.full((40, 40, 3), 40 * number, np.uint8))
        np.savez(tmp_path / f"own/parameters/{actor}/1.npz", shape=np.full(9, number), exp=[0.5, 0.6], jaw=[0.1, 0, 0])
    return tmp_path / "own"


def test_the_projects_own_layout(own_layout):
    items = find(own_layout, "ofer")
    assert [(item.actor, item.picture.name) for item in items] == [("anna", "1.jpg"), ("ben", "1.jpg")]
    betas, expression, jaw = read_parameters(items[1].parameters, SHAPES, len(NAMES))
    assert betas.tolist() == [1.0] * SHAPES and jaw[0] == pytest.approx(0.1)
    np.testing.assert_allclose(expression, [0.5, 0.6, 0])  # what the file lacks is zero
    (own_layout / "parameters/anna/1.npz").unlink()
    with pytest.raises(DataError, match=r"has no .*anna/1\.npz"):
        find(own_layout, "ofer")
    with pytest.raises(DataError, match="holds no pictures"):
        find(own_layout / "images", "ofer")


@pytest.mark.parametrize("layout", ["mica", "famos"])
def test_lists_of_actors(tmp_path, layout):
    """MICA's order and parameters in a folder of their own; FaMoS' order, parameters beside, a pose without a root."""
    name = {"mica": "STIRLING", "famos": "TEMPEH"}[layout]
    pictures, parameters = ["a/1.npy", "a/2.npy"], "a.npy"
    entry = [pictures, parameters] if layout == "mica" else [parameters, pictures]
    (tmp_path / "image_paths/arcface23").mkdir(parents=True)
    np.save(tmp_path / f"image_paths/arcface23/{name}.npy", {"actor 1": entry}, allow_pickle=True)
    (tmp_path / name / "arcface_input/a").mkdir(parents=True)
    for number in (1, 2):
        cv2.imwrite(str(tmp_path / name / f"arcface_input/a/{number}.png"), np.zeros((9, 9, 3), np.uint8))
    if layout == "mica":
        folder = tmp_path / name / "FLAME_parameters"
        folder.mkdir()
        np.savez(folder / "a.npz", betas=np.arange(400), pose=np.arange(15))
    else:
        with (tmp_path / name / "a.npy").open("wb") as file:  # an archive by another ending
            np.savez(file, shape=np.arange(300), exp=np.arange(100) + 300, pose=np.arange(12), trans=np.zeros(3))
    items = find(tmp_path, layout)
    assert [item.picture.name for item in items] == ["1.png", "2.png"] and items[0].actor == f"{name}/actor 1"
    betas, expression, jaw = read_parameters(items[0].parameters, 200, 50)
    assert betas.tolist() == list(range(200)) and expression.tolist() == list(range(300, 350))
    assert jaw.tolist() == ([6, 7, 8] if layout == "mica" else [3, 4, 5])


def test_what_is_wrong_with_parameters(tmp_path):
    np.savez(tmp_path / "few.npz", shape=np.zeros(3))
    with pytest.raises(DataError, match="holds 3 shape coefficients, the head has 6"):
        read_parameters(tmp_path / "few.npz", 6, 3)
    np.savez(tmp_path / "none.npz", exp=np.zeros(3))
    with pytest.raises(DataError, match="neither `shape` nor `betas`"):
        read_parameters(tmp_path / "none.npz", 6, 3)
    np.savez(tmp_path / "pose.npz", shape=np.zeros(6), pose=np.zeros(7))
    with pytest.raises(DataError, match="a pose of 7 numbers"):
        read_parameters(tmp_path / "pose.npz", 6, 3)


def test_lists_run_no_code(tmp_path):
    class Trap:
        def __reduce__(self):
            return open, (str(tmp_path / "sprung"), "w")

    (tmp_path / "image_paths").mkdir()
    np.save(tmp_path / "image_paths/X.npy", {"actor": Trap()}, allow_pickle=True)
    with pytest.raises(DataError, match="refused"):
        find(tmp_path, "mica")
    assert not (tmp_path / "sprung").exists()


def test_photographs_become_a_picture_set(own_layout, tmp_path, monkeypatch):
    """Actors whose face is not found leave an empty shard, and what is hidden is unknown."""
    looked = []

    def observe(item, head, finder):
        looked.append(item.actor)
        if item.actor == "ben":
            return None
        betas, expression, jaw = read_parameters(item.parameters, head.n_shape, head.n_expression)
        return {"landmarks": np.zeros((478, 6)), "crop": np.zeros((112, 112, 3)), "betas": betas,
                "expression": expression, "jaw": jaw}  # fmt: skip

    monkeypatch.setattr(photographs, "observe", observe)
    monkeypatch.setattr("ofer_models.perception.frontend.FaceFrontend", lambda count: None)
    source = Photographs(HEAD, own_layout, "ofer", tmp_path / "shards")
    plain = lambda iterable, text, total: iterable  # noqa: E731
    source.prepare(plain)
    source.prepare(plain)  # nothing left to do
    assert looked == ["anna", "ben"]
    pictures = source.load()
    assert len(pictures) == 1 and np.isnan(pictures.occlusion).all()
    assert pictures.crop.dtype == np.uint8 and np.unpackbits(pictures.visible, axis=1, count=HEAD.n_vertices).all()
    assert not source.provenance.commercial_use


def test_a_face_in_a_photograph_is_found(tmp_path):
    astronaut = pytest.importorskip("skimage.data", reason="a photograph to look at").astronaut()
    from ofer_models.perception.frontend import FaceFrontend

    cv2.imwrite(str(tmp_path / "a.png"), astronaut[..., ::-1])
    np.savez(tmp_path / "a.npz", shape=np.zeros(SHAPES))
    row = photographs.observe(photographs.Item("a", tmp_path / "a.png", tmp_path / "a.npz"), HEAD, FaceFrontend(1))
    assert row["landmarks"].shape == (478, 6) and row["crop"].shape == (112, 112, 3)
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((200, 200, 3), np.uint8))
    item = photographs.Item("a", tmp_path / "a.png", tmp_path / "a.npz")
    assert photographs.observe(item, HEAD, FaceFrontend(1)) is None


def test_what_was_made_of_something_else_is_not_taken(head_path, tmp_path):
    run(head_path, tmp_path / "a", "context")
    other = OpenTraining(head_path, tmp_path / "a", TINY, Arrays(), seed=7, log=quiet)
    with pytest.raises(DataError, match=r"made with seed 1, asked for is seed 7; `ofer train context --again`"):
        other.run(lambda iterable, text, total: iterable, tmp_path / "bundle", "context")
    longer = OpenTraining(head_path, tmp_path / "a", replace(TINY, context=Schedule(5, 16, 1e-3)), Arrays(), log=quiet)
    with pytest.raises(DataError, match="was made with steps 4, asked for is steps 5"):
        longer.run(lambda iterable, text, total: iterable, tmp_path / "bundle", "context")
    (tmp_path / "a" / "context.pt").write_bytes(b"garbage")
    with pytest.raises(DataError, match=r"context\.pt is damaged or cut short, or no checkpoint.*--again`"):
        run(head_path, tmp_path / "a", "context")


def test_photographs_of_another_folder_are_not_taken(tmp_path, head_path):
    root, folder = tmp_path / "own", tmp_path / "cache"
    for name in ("a", "b"):
        (root / "images").mkdir(parents=True, exist_ok=True)
        (root / "parameters").mkdir(exist_ok=True)
        cv2.imwrite(str(root / "images" / f"{name}.png"), np.zeros((8, 8, 3), np.uint8))
        np.savez(root / "parameters" / f"{name}.npz", shape=np.zeros(400))
    source = Photographs(HeadModel.load(head_path), root, "ofer", folder)
    source.prepare(lambda iterable, text, total: [])
    source.prepare(lambda iterable, text, total: [])
    with pytest.raises(DataError, match="no face was found in the photographs"):
        source.load()
    (root / "images" / "b.png").unlink()
    with pytest.raises(DataError, match=r"cache was made with pictures \w+, asked for is pictures \w+; give another"):
        source.prepare(lambda iterable, text, total: [])
