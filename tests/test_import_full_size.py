"""The whole way in full size: official files with random weights -> import -> doctor -> pipeline on photographs."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import yaml
from official_inputs import write_full_size
from recipe import relative_error

from ofer_models.bundle.checkpoint import NetworkSizes, find_maps, read_checkpoint
from ofer_models.bundle.manifest import Bundle
from ofer_models.diffusion.solvers import solver_table
from ofer_models.engines.stages import CoefficientSampler
from ofer_models.head.model import HeadModel
from ofer_models.pipeline import FacePipeline

pytestmark = pytest.mark.long
ROOT = Path(__file__).resolve().parents[1]
IMAGES = ROOT.parent / "shared" / "images"
MINUTES, GIBIBYTES = 12, 12


def ofer(*arguments: str | Path) -> tuple[float, float]:
    """Run the command; seconds and the largest resident size in GiB."""
    started = time.monotonic()
    process = subprocess.Popen([sys.executable, "-m", "ofer_models.cli", *map(str, arguments)], cwd=ROOT)
    peak = 0.0
    while process.poll() is None:
        try:
            status = Path(f"/proc/{process.pid}/status").read_text()
            peak = max(peak, int(status.split("VmRSS:")[1].split()[0]) / 2**20)
        except (OSError, IndexError):
            pass
        threading.Event().wait(0.2)
    assert process.returncode == 0
    return time.monotonic() - started, peak


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    path = ROOT / "engines" / "open" / "head.npz"
    if not path.is_file():
        pytest.skip("engines/open/head.npz is not here")
    return write_full_size(tmp_path_factory.mktemp("full") / "files", HeadModel.load(path))


def run_import(files, out: Path) -> tuple[float, float]:
    return ofer("import", "--idgen", files.idgen, "--idrank", files.idrank, "--expgen", files.expgen, "--flame",
                files.flame, "--out", out)  # fmt: skip


@pytest.fixture(scope="module")
def imported(files, tmp_path_factory) -> tuple[Path, float, float]:
    out = tmp_path_factory.mktemp("bundle") / "official"
    return (out, *run_import(files, out))


def test_import_fits_time_and_memory_and_tells_the_maps(imported):
    out, seconds, peak = imported
    print(f"import: {seconds:.0f} s, {peak:.1f} GiB resident")
    assert seconds < 60 * MINUTES and peak < GIBIBYTES
    manifest = yaml.safe_load((out / "manifest.yaml").read_text())
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
    x, before = noise, torch.zeros_like(noise)
    with torch.no_grad():
        modulation = net.modulation(context, torch.from_numpy(table.timesteps))
        for k, c in enumerate(table.coefficients.tolist()):
            x0 = c[0] * x - c[1] * net.denoise(x, modulation[:, k])
            x, before = c[2] * x + c[3] * x0 + c[4] * before, x0
    found = CoefficientSampler(spec, threads=1)(context.numpy(), noise.numpy())
    assert relative_error(found, x) <= 1e-3


def test_the_doctor_lets_it_run_and_names_its_licences(imported, tmp_path):
    ofer("doctor", "--bundle", imported[0], "--json", tmp_path / "report.json")
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["runs"] and report["bundles"][0]["commercial_use"] is False


def test_photographs_become_faces(imported):
    pictures = sorted(IMAGES.glob("*.jpg"))
    if not pictures:
        pytest.skip(f"no photographs in {IMAGES}")
    pipeline = FacePipeline(imported[0])
    found = 0
    for stamp, path in enumerate(pictures):
        pipeline.reset()
        faces = pipeline(cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB), float(stamp))
        for face in faces:
            assert face.shape.shape == (300,) and face.expressions.shape == (15, 50) and face.jaws.shape == (15, 3)
            assert np.isfinite(pipeline.vertices(face)).all() and np.isfinite(face.translation).all()
        found += len(faces)
    assert found >= len(pictures) // 2


def test_a_second_import_gives_identical_files(files, imported, tmp_path):
    run_import(files, tmp_path / "official")
    for path in imported[0].iterdir():
        assert (tmp_path / "official" / path.name).read_bytes() == path.read_bytes(), path.name
