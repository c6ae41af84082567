"""The whole way in full size: official files with random weights -> import -> doctor -> reconstruct photographs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
import yaml
from official_inputs import write_full_size
from recipe import relative_error

from ofer_models.bundle.manifest import Bundle
from ofer_models.head.model import HeadModel
from ofer_models.runtime.onnxruntime_backend import OnnxRuntimeBackend, OnnxStage
from ofer_models.runtime.solvers import solver_table
from ofer_models.runtime.stages import CoefficientSampler
from ofer_models.workshop.networks.official_stages import JointContext
from ofer_models.workshop.networks.sampling import sample
from ofer_models.workshop.official.checkpoint import NetworkSizes, find_maps, read_checkpoint

pytestmark = pytest.mark.long
ROOT = Path(__file__).resolve().parents[1]
IMAGES = ROOT.parent / "shared" / "images"
MINUTES, GIBIBYTES = 12, 5.2  # of memory, measured 5.0


class Cost(NamedTuple):
    """Exit code and seconds of a process, and its largest resident size in GiB."""

    code: int
    seconds: float
    peak: float


def ofer(*arguments: str | Path) -> Cost:
    """Run the command in a process of its own."""
    started = time.monotonic()
    process = subprocess.Popen([sys.executable, "-m", "ofer_models.cli", *map(str, arguments)], cwd=ROOT)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    return Cost(process.returncode, time.monotonic() - started, usage.ru_maxrss / 2**20)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    path = ROOT / "engines" / "open" / "head.npz"
    started = time.monotonic()
    written = write_full_size(tmp_path_factory.mktemp("full") / "files", HeadModel.load(path))
    return written, time.monotonic() - started


def run_import(files, out: Path) -> Cost:
    return ofer("import", "--idgen", files.idgen, "--idrank", files.idrank, "--expgen", files.expgen, "--flame",
                files.flame, "--out", out)  # fmt: skip


@pytest.fixture(scope="module")
def files(written):
    return written[0]


@pytest.fixture(scope="module")
def imported(files, tmp_path_factory) -> tuple[Path, Cost]:
    out = tmp_path_factory.mktemp("bundle") / "official"
    return out, run_import(files, out)


def test_the_round_trip_fits_time_and_memory(written, imported, tmp_path):
    pictures = sorted(IMAGES.glob("*.jpg"))
    if not pictures:
        pytest.skip(f"no photographs in {IMAGES}")
    bundle, importing = imported
    reconstructing = ofer("reconstruct", IMAGES, "-o", tmp_path, "--bundle", bundle, "--now-landmarks")
    print(f"writing {written[1]:.0f} s, importing {importing}, reconstructing {reconstructing}")
    assert written[1] + importing.seconds + reconstructing.seconds < 60 * MINUTES
    assert max(importing.peak, reconstructing.peak) < GIBIBYTES
    found = sorted(tmp_path.glob("*/face1.npz"))
    assert importing.code == 0 and len(found) >= len(pictures) // 2
    assert reconstructing.code == (0 if len(found) == len(pictures) else 1)
    for path in found:
        with np.load(path) as stored:
            assert stored["betas"].shape == (300,) and stored["expressions"].shape == (15, 50)
            assert all(np.isfinite(stored[name]).all() for name in ("betas", "expressions", "jaws", "translation"))
        for name in ("identity", "00", "14"):
            header = path.with_name(f"face1_{name}.ply").read_bytes()[:200]
            assert b"element vertex 5023" in header and b"element face 9976" in header
            assert np.loadtxt(path.with_name(f"face1_{name}.txt")).shape == (7, 3)


def test_the_maps_are_told_and_the_sizes_are_the_releases(imported):
    manifest = yaml.safe_load((imported[0] / "manifest.yaml").read_text())
    assert manifest["query_key_value_maps"] == {"idgen": "training", "expgen": "training"}
    assert (manifest["n_shape"], manifest["n_expression"]) == (300, 50)


@pytest.mark.parametrize("name", ["idgen", "expgen"])
def test_twenty_steps_equal_the_torch_network(files, imported, name):
    spec = Bundle.load(imported[0]).stages[name]
    table = solver_table(spec.solver, 20, spec.spacing)
    checkpoint = read_checkpoint(getattr(files, name), name, NetworkSizes())
    net = checkpoint.denoiser(NetworkSizes(), find_maps(checkpoint, NetworkSizes(), None).tensors)
    generator = torch.Generator().manual_seed(4)
    context = torch.nn.functional.normalize(torch.randn(2, net.n_context, generator=generator), dim=-1)
    noise = torch.randn(2, 4, net.n_coefficients, generator=generator)
    found = CoefficientSampler(spec, OnnxRuntimeBackend())(context.numpy(), noise.numpy())
    assert relative_error(found, sample(net, context, noise, table)) <= 1e-3


@torch.no_grad()
def test_ranking_by_coefficients_equals_ranking_meshes(files, imported):
    bundle, sizes = Bundle.load(imported[0]), NetworkSizes()
    rng = np.random.default_rng(6)
    betas = rng.normal(0, 1000, (1, 5, 300)).astype(np.float32)  # so far apart that a random network tells them apart
    crops = {"crop112_bgr": rng.normal(size=(1, 3, 112, 112)), "crop224": rng.normal(size=(1, 3, 224, 224))}
    crops = {name: array.astype(np.float32) for name, array in crops.items()}
    found = OnnxStage(bundle.stages["idrank"].files["graph"])(betas=betas, **crops)["score"]
    checkpoint = read_checkpoint(files.idrank, "idrank", sizes)
    context = JointContext(checkpoint.arcface(sizes), checkpoint.farl(sizes))(*map(torch.from_numpy, crops.values()))
    frontal = 1000 * torch.from_numpy(bundle.head.decode(betas)[..., bundle.head.masks["frontal"], :])
    expected = checkpoint.rank(sizes)(frontal, context).numpy()
    assert relative_error(found, expected) <= 1e-4
    assert relative_error(found - found.mean(), expected - expected.mean()) <= 1e-4


def test_the_doctor_lets_it_run_and_names_its_licences(imported, tmp_path):
    assert ofer("doctor", "--bundle", imported[0], "--json", tmp_path / "report.json").code == 0
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["runs"] and report["bundles"][0]["commercial_use"] is False


def test_a_second_import_gives_identical_files(files, imported, tmp_path):
    run_import(files, tmp_path / "official")
    for path in imported[0].iterdir():
        assert (tmp_path / "official" / path.name).read_bytes() == path.read_bytes(), path.name
