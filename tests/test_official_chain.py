"""The chain by hand, as the networks' README tells it, against the imported bundle; FLAME's moving landmarks."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from official_inputs import SMALL, landmark_tables, write_small
from recipe import relative_error

from ofer_models.bundle.manifest import Bundle
from ofer_models.head.model import rotation_matrices
from ofer_models.runtime.solvers import solver_table
from ofer_models.runtime.stages import StageSet
from ofer_models.workshop.networks.arcface import ArcFace
from ofer_models.workshop.networks.denoiser import Denoiser
from ofer_models.workshop.networks.farl import Farl
from ofer_models.workshop.networks.rank import RankNetwork
from ofer_models.workshop.networks.sampling import sample
from ofer_models.workshop.official.flame_landmarks import MovingLandmarks, contour_row
from ofer_models.workshop.official.importer import import_official
from ofer_models.workshop.official.safe_pickle import read_object_npy

torch.set_num_threads(1)
N, H = 6, 4


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    return write_small(tmp_path_factory.mktemp("official") / "files")


def load(path, entry: str, network: torch.nn.Module) -> torch.nn.Module:
    network.load_official(torch.load(path, weights_only=False)[entry])
    return network.eval()


@torch.no_grad()
def test_a_released_quirks_bundle_gives_the_same_heads_as_the_chain_by_hand(files, tmp_path):
    bundle = Bundle.load(import_official(files, tmp_path / "official", sizes=SMALL, released_quirks=True).path)
    head, sizes = bundle.head, SMALL.networks
    rng = np.random.default_rng(8)
    blob, crop = rng.normal(size=(1, 3, 32, 32)).astype(np.float32), rng.normal(size=(1, 3, 24, 24)).astype(np.float32)
    arcface, arcface_r, arcface_e = (
        load(path, "arcface", ArcFace(**sizes.arcface)) for path in (files.idgen, files.idrank, files.expgen)
    )
    arcface_r.single_row_quirk = True
    farl_r, farl_e = (load(path, "farl", Farl(**sizes.farl)) for path in (files.idrank, files.expgen))
    idgen, expgen = (
        load(path, "net", Denoiser(*size)) for path, size in ((files.idgen, sizes.idgen), (files.expgen, sizes.expgen))
    )
    idrank = load(files.idrank, "net", RankNetwork(**sizes.rank))
    blob_t, crop_t = torch.from_numpy(blob), torch.from_numpy(crop)

    torch.manual_seed(37)
    noise = torch.randn(100, 6)[None, :N]
    betas = sample(idgen, arcface(blob_t), noise, solver_table("released_ddim"))[0]
    frontal = 1000 * torch.from_numpy(head.decode(betas.numpy())[:, head.masks["frontal"]]).float()
    score = idrank(frontal[None], torch.cat([farl_r(crop_t), arcface_r(blob_t)], 1))
    torch.manual_seed(363)
    noise53, *added = (torch.randn(100, 7)[None, :H] for _ in range(1000))
    context = torch.cat([farl_e(crop_t), arcface_e(blob_t)], 1)
    drawn = sample(expgen, context, noise53, solver_table("ddpm", 1000), torch.stack(added))[0]
    chosen = int(score.argmax())
    mesh = head.decode(betas[chosen].numpy(), drawn[:, :4].numpy(), 0.5 * drawn[:, 4:].numpy())

    stages, ignored = StageSet(bundle), np.zeros((1, N, 6), np.float32)
    found = stages.idgen(stages.identity_context(crop112_bgr=blob)["context"], ignored)
    scores = stages.idrank(betas=found, crop112_bgr=blob, crop224=crop)["score"]
    assert relative_error(found[0], betas) <= 1e-3 and relative_error(scores, score) <= 1e-3
    assert int(scores.argmax()) == chosen
    expressions = stages.expgen(
        stages.expression_context(crop112_bgr=blob, crop224=crop)["context"], np.zeros((1, H, 7), np.float32)
    )[0]
    assert relative_error(expressions, drawn) <= 1e-3
    again = head.decode(found[0, chosen], expressions[:, :4], bundle.jaw_scale * expressions[:, 4:])
    assert relative_error(again, mesh) <= 1e-3


def test_sampling_by_hand_needs_the_noise_that_the_solver_adds():
    net = Denoiser(4, (4, 4, 4), context=3, maps=2, heads=1, head_dim=2, time=8).eval()
    noise, context = torch.zeros(1, 2, 4), torch.zeros(1, 3)
    with pytest.raises(ValueError, match="adds noise at 9 steps"):
        sample(net, context, noise, solver_table("ddpm", 10), torch.zeros(8, 1, 2, 4))
    assert sample(net, context, noise, solver_table("ddpm", 10), torch.zeros(9, 1, 2, 4)).shape == (1, 2, 4)


@pytest.mark.parametrize("yaw, row", [(0, 0), (0.4, 0), (12, 12), (39, 39), (80, 39), (-1, 40), (-12.6, 52), (-39, 78),
                                      (-39.6, 78), (-75, 78)])  # fmt: skip
def test_the_contour_follows_the_heads_yaw(yaw, row):
    pitched = rotation_matrices(np.array([[0.3, 0, 0]])) if abs(yaw) < 1 else np.eye(3)[None]
    turn = rotation_matrices(np.radians([[0.0, yaw, 0]])) @ pitched
    assert contour_row(turn).tolist() == [row]


def test_moving_landmarks_lie_where_the_tables_say(tmp_path):
    rng = np.random.default_rng(2)
    faces, vertices = rng.integers(0, 30, (50, 3)), rng.normal(size=(3, 30, 3))
    tables = landmark_tables(50)
    np.save(tmp_path / "landmark_embedding.npy", np.array(tables, dtype=object), allow_pickle=True)
    rotation, neck = (
        np.radians([[0, 20.0, 0], [0, -10, 0], [0, 0, 0]]),
        np.radians([[0, 9.0, 0], [0, -5, 0], [0, 0, 0]]),
    )
    found = MovingLandmarks.of(read_object_npy(tmp_path / "landmark_embedding.npy"))(vertices, faces, rotation, neck)
    triangle, bary = tables["dynamic_lmk_faces_idx"].numpy(), tables["dynamic_lmk_bary_coords"].numpy()
    for face, row in enumerate((29, 54, 0)):
        for point in range(17):
            expected = bary[row, point] @ vertices[face][faces[triangle[row, point]]]
            np.testing.assert_allclose(found[face, point], expected, atol=1e-6)
        for point in range(51):
            corners = vertices[face][faces[tables["static_lmk_faces_idx"][point]]]
            np.testing.assert_allclose(
                found[face, 17 + point], tables["static_lmk_bary_coords"][point] @ corners, atol=1e-6
            )
