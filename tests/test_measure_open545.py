"""Open-545: the set, its hashes, the headline figures by hand, and the report that holds them."""

from __future__ import annotations

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("numba", reason="the renderer needs numba (`make train-env`)")

from conftest import OPEN
from people_support import small_library

from ofer_models.head.landmark_sets import ON_PEOPLE
from ofer_models.head.model import HeadModel
from ofer_models.workshop.errors import EvaluationError
from ofer_models.workshop.measure.methods.heads import measure_heads
from ofer_models.workshop.measure.open545 import pictures as open545
from ofer_models.workshop.measure.open545 import pooling, protocol, regressor, report, scenes
from ofer_models.workshop.measure.open545.expression import METHODS, SHARES, ExpressionResult
from ofer_models.workshop.measure.open545.identity import IdentityResult, LandmarkAgreement
from ofer_models.workshop.measure.open545.regressor import SHIPPED, Regressor
from ofer_models.workshop.measure.open545.steps import StepLoss
from ofer_models.workshop.pictures.dataset import PictureSet


@pytest.fixture(scope="module")
def part(open_head, tmp_path_factory) -> tuple[dict, open545.Open545]:
    """Rows 0, 11 and 22: one person before a hand, an object and a random shape."""
    drawing = scenes.PlainScenes(open_head)
    rows = {index: scenes.draw(drawing, index) for index in (0, 11, 22)}
    again = scenes.draw(scenes.PlainScenes(open_head), 11)
    assert all(np.array_equal(again[name], rows[11][name]) for name in again)
    folder = tmp_path_factory.mktemp("open545")
    open545.generate(OPEN / "head.npz", folder, assets=None, count=0)  # nothing to do
    arrays = {name: np.stack([row[name] for row in rows.values()]) for name in rows[0]}
    for which in ("clean", "occluded"):
        for name in ("visible", "covered"):
            arrays[f"{which}_{name}"] = np.packbits(arrays[f"{which}_{name}"], axis=1)
    np.savez(folder / "000.npz", **arrays)
    return rows, open545.load(folder)


def test_both_halves_show_the_same_person_and_face(part):
    rows, pictures = part
    assert len(pictures) == 3 and pictures.person.tolist() == [0, 0, 0] and pictures.group.tolist() == [0, 1, 2]
    for row in rows.values():
        for name in ("betas", "expression", "jaw"):
            np.testing.assert_array_equal(row[f"clean_{name}"], row[f"occluded_{name}"])
            assert name == "betas" or not np.array_equal(row[f"clean_{name}"], rows[0 if row is not rows[0] else 11][
                f"clean_{name}"])  # fmt: skip
        assert row["occluded_occlusion"] >= 0.05 and row["clean_occlusion"] < 0.02
        assert not (row["occluded_visible"] & ~row["clean_visible"]).any()
        assert (row["occluded_covered"] & row["clean_visible"]).any()
    np.testing.assert_array_equal(rows[0]["clean_betas"], rows[22]["clean_betas"])


def test_hashes_tell_truth_from_pictures(part, monkeypatch, tmp_path):
    _, pictures = part
    found = open545.hashes(pictures, OPEN / "head.npz")
    expected = tmp_path / "open545_plain.json"
    monkeypatch.setattr(open545, "_FOLDER", tmp_path)
    expected.write_text(json.dumps(found))
    assert "equal to the bit" in open545.check(found, "open545-plain")
    pictures.clean.crop[0, 0, 0, 0] ^= 1
    changed = open545.hashes(pictures, OPEN / "head.npz")
    pictures.clean.crop[0, 0, 0, 0] ^= 1
    assert changed["truth"] == found["truth"] and "differ in some bits" in open545.check(changed, "open545-plain")
    expected.write_text(json.dumps(found | {"truth": "0"}))
    with pytest.raises(EvaluationError, match="the truth's hash"):
        open545.check(found, "open545-plain")


def test_the_repositorys_hashes_are_of_its_head():
    expected = open545.expected_hashes("open545-plain")
    assert expected["head"] == open545.expected_hashes("open545")["head"] == open545.sha256_of(OPEN / "head.npz")
    before = expected["before 0.2.2"]  # its lip points lay elsewhere on the head; the scenes are the same
    assert before["truth"] == expected["truth"] and before["head"] != expected["head"]
    assert len(expected["truth"]) == len(expected["pictures"]) == len(before["pictures"]) == 64


def test_another_head_is_refused_before_anything_is_drawn(tmp_path):
    open545.require_head(OPEN / "head.npz", "open545")
    (tmp_path / "head.npz").write_bytes(b"another")
    with pytest.raises(EvaluationError, match="shows the open head"):
        open545.require_head(tmp_path / "head.npz", "open545")


def test_an_empty_folder_says_what_to_run(tmp_path):
    with pytest.raises(FileNotFoundError, match="ofer evaluate"):
        open545.load(tmp_path)


def test_landmarks_prefer_the_true_head(open_head: HeadModel, part):
    """With the truth's own landmarks, of a true head, one of other proportions and the mean one."""
    _, pictures = part
    agree = LandmarkAgreement(open_head)
    betas = np.zeros((3, open_head.n_shape), np.float32)
    betas[0], betas[1] = pictures.clean.betas[0], -pictures.clean.betas[0]
    vertices = open_head.decode(betas[0], pictures.clean.expression[0], pictures.clean.jaw[0])
    points = open_head.landmarks(vertices, ON_PEOPLE) * [1, -1, -1] + [0, 0, 0.6]
    camera = np.array([[300.0, 0, 128], [0, 300, 128], [0, 0, 1]])
    pixels = np.zeros((478, 3))
    pixels[:468, :2] = points[:, :2] / points[:, 2:] * 300 + 128
    weights = agree(betas, pictures.clean.coefficients[0], pixels, camera)
    assert weights.argmax() == 0 and weights[0] > -0.01
    assert (agree(betas, pictures.clean.coefficients[0], np.full((478, 3), np.nan), camera) == 0).all()


def test_the_shipped_regressor_belongs_to_the_shipped_bundle(open_bundle):
    """After training, delete the file; `ofer evaluate` fits a new one into out/regressor_*.npz."""
    with np.load(SHIPPED) as file:
        shipped = Regressor({name: file[name] for name in file.files})
    assert shipped.fits(open_bundle)
    context = np.random.default_rng(0).normal(size=(4, 256)).astype(np.float32)
    assert shipped.betas(context).shape == (4, open_bundle.n_shape)
    assert shipped.coefficients(context).shape == (4, open_bundle.n_expression + 3)


def test_a_regressor_learns_through_a_bundles_encoders(open_bundle, monkeypatch):
    """Coefficients that the landmarks tell plainly, half a minute of training cut to a second."""
    monkeypatch.setattr(regressor, "_STEPS", 150)
    monkeypatch.setattr(regressor, "_TEST", 50)
    rng, count = np.random.default_rng(0), 300
    told = rng.normal(size=(count, 1)).astype(np.float32)
    landmarks = 0.02 * rng.normal(size=(count, 478, 6)) + 0.2 * told[:, None] * rng.normal(size=(1, 478, 6))
    nothing = np.zeros((count, 1), np.uint8)
    pictures = PictureSet(
        landmarks=landmarks.astype(np.float16), crop=np.zeros((count, 112, 112, 3), np.uint8),
        betas=np.repeat(told, open_bundle.n_shape, 1), expression=np.repeat(told, open_bundle.n_expression, 1),
        jaw=np.repeat(told, 3, 1), occlusion=nothing[:, 0], visible=nothing, covered=nothing, index=np.arange(count),
    )  # fmt: skip
    fitted = regressor.fit(open_bundle, pictures, log=lambda line: None)
    assert fitted.fits(open_bundle)
    inputs = regressor.encoder_arrays(pictures, slice(None))
    context = regressor.StageSet(open_bundle).identity_context(**inputs)
    guess = fitted.betas(context["context"])
    assert ((guess - pictures.betas) ** 2).mean() < 0.5 * pictures.betas.var()


def identity_result(ranked: float) -> IdentityResult:
    """Two faces with candidates 1, 2 and 3 mm off: the ranked one `ranked`, the nearest to the mean 2, the mean 1.5."""
    result = IdentityResult(candidates=[np.array([1.0, 2, 3])] * 2, chosen=[int(ranked) - 1] * 2, nearest=[1, 1],
                            mean_error=[1.5, 1.5])  # fmt: skip
    for _ in range(2):
        values = {
            "ranked": ranked,
            "average": 2.0,
            "best": 1.0,
            "random heads": 8.0,
            "mean head": 6.0,
            "regressor": 2.0,
        }
        for name, value in values.items():
            result.add(name, np.full(5, value))
        for name in ("50 random + 50 drawn", "80 random + 20 drawn"):
            for what in ("best", "ranked", "average"):
                result.add(f"{name}, {what}", np.full(5, 4.0))
        for count in (200, 1000):
            result.add(f"random best of {count}", np.full(5, 5.0))
    return result


def expression_result(hidden_spread: float) -> ExpressionResult:
    """One picture of four vertices, the last two hidden: spread 1 where seen; regressor 2 mm off, hypotheses 1."""
    result = ExpressionResult()
    figures = {"se": 2.0, "cse": 1.0, "std_s": 1.0, "ode": 0.02, "ode_o": 0.0, "ode_v": 0.0, "min_asd_v": 1.0,
               "max_asd_v": 2.0, "asd_o": 0.3}  # fmt: skip
    for name in METHODS:
        result.rows[name].append(figures)
        result.cse_seen[name].append(1.0 if name == "hypotheses" else 2.0)
        result.cse_hidden[name].append(1.2 if name == "hypotheses" else 2.0)
    result.mean_error.append(np.array([1.0, 2, 3]))
    result.neutral_error.append(np.array([4.0, 5, 6]))
    result.spread.append(np.array([1, 1, hidden_spread, hidden_spread]))
    result.visible.append(np.array([1, 1, 0, 0], bool))
    result.hidden.append(np.array([0, 0, 1, 1], bool))
    result.inside.append(np.array([[1, 0]] * 3 + [[1, 1]] * 2, bool))
    result.inside_seen.append(np.array([[0, 0]] * 3 + [[1, 0]] * 2, bool))
    result.own_se.append(2.5)
    return result


class TwoStages:
    """IdGen that draws the noise itself, and a ranking by the sum of the coefficients times the context."""

    def idgen(self, context, noise, rng):
        return noise

    def idrank(self, betas, context):
        return {"score": (betas * context[:, None]).sum(-1)}


TwoStages.idgen.n_coefficients = 2


def test_several_pictures_of_a_person_are_ranked_together():
    """Contexts (1, 0) and (0, 1) of one person add up, so the candidate with the largest sum is chosen."""

    class Direct:
        basis = np.eye(2)

        def __call__(self, betas, truth):
            return np.abs(betas - truth)

    result = IdentityResult(
        contexts=[np.array([1.0, 0]), np.array([0, 1.0])],
        drawn=[np.array([[3.0, -9], [1, 0]]), np.array([[-9.0, 3], [2, 2]])],
    )
    pictures = SimpleNamespace(betas=np.array([[2.0, 2], [2, 2]]))
    figures = pooling.by_frames(TwoStages(), pictures, np.array([0, 0]), result, Direct())
    assert set(figures) == {1, 2}
    assert figures[1].ranked == pytest.approx(((1 + 11) / 2 + (11 + 1) / 2) / 2)  # the first ones, of 3 and 3
    assert figures[2].ranked == 0 and figures[2].gap_closed == 1
    stages = TwoStages()
    counts = pooling.by_count(stages, pictures, result, Direct(), [0, 1], seed=0)
    assert set(counts) == set(pooling.COUNTS)
    assert counts[500].best < counts[20].best  # more candidates, a better best one


STEPS = StepLoss(1.0, 2.0, 1.1, 1.9, 1 / 1.1 - 1, 1 - 2 / 1.9)


def test_every_method_answers_about_heads_and_expressions(part, open_bundle):
    figures = measure_heads(open_bundle, part[1].first(1))
    for half in ("clean", "occluded"):
        rows = figures[half]
        assert {"ofer, ranked", "ofer, mean", "ofer, closest", "regressor", "landmark fit"} <= rows.keys()
        assert all(0 < row["now"] < 5 for name, row in rows.items() if name != "neutral face")
        assert all(0 < row["seen"] < 10 and 0 < row["hidden"] < 10 for name, row in rows.items() if name != "mean head")
    assert figures["clean"]["mean head"] == figures["occluded"]["mean head"], "which looks at nothing"
    assert figures["clean"]["neutral face"] == figures["occluded"]["neutral face"]


@pytest.fixture
def results() -> protocol.Results:
    identity = {"clean": identity_result(1), "occluded": identity_result(2)}
    expression = {"clean": expression_result(2.0), "occluded": expression_result(4.0)}
    figures = protocol.headline(identity, expression, STEPS, 5.0, np.array([1.0, 1, 8, 8]))
    counts = {20: identity["clean"].ranking(), 500: identity["occluded"].ranking()}
    frames = {"clean": {2: identity["clean"].ranking()}}
    return protocol.Results(figures, 1, identity, expression, np.array([0]), STEPS, 5.0, counts, frames)


def test_headline_figures_by_hand(results):
    figures = results.figures
    assert figures["identity_ratio"] == pytest.approx(1.5 / 8)  # the median of 1 and 2
    assert figures["rank_gap_closed"] == pytest.approx((2 - 1.5) / (2 - 1))
    assert figures["nearest_gap_closed"] == 0 and figures["mean_gap_closed"] == pytest.approx(0.5)
    assert figures["cse_ratio_occluded"] == pytest.approx(0.6) and figures["cse_ratio_visible"] == 0.5
    assert figures["expression_ratio"] == pytest.approx(2 / 5)
    assert figures["spread_ratio"] == 4 and figures["spread_clean_ratio"] == 0.5
    assert figures["spread_ratio_relative"] == pytest.approx(4 / 8)
    assert figures["ode"] == pytest.approx(0.02 / 5)
    assert figures["coverage90"] == 1.0 and figures["coverage90_visible"] == 0.5  # the row of 0.9 in SHARES
    assert SHARES[3] == 0.9
    assert figures["steps_error_loss"] < 0 and figures["steps_spread_loss"] < 0


def test_the_report_holds_figures_goals_and_tables(results, tmp_path):
    bundle = SimpleNamespace(name="open", version="9", hypotheses=15)
    files = report.write_report(
        results, bundle, "open545", tmp_path, "ofer evaluate --report docs", "Open-545, a test"
    )
    text = files[0].read_text()
    assert "ofer evaluate --report docs" in text and "bundle open 9".lower() in text.lower()
    assert "| `rank_gap_closed` |" in text and "| 0.5 | at least 0.5 | yes |" in text
    assert "| `spread_clean_ratio` |" in text and "at most 1/3 | no |" in text
    assert "| random heads | 8.00 / 8.00 / 0.00 |" in text and "| 3 drawn |" in text
    assert "| 20 candidates | 2.000 | 1.000 | 1.000 | 2.000 | 1.500 | 1.00 | 0.00 |" in text
    assert "| 2 pictures, clean |" in text
    assert "nan" not in text.lower().replace("nanm", "")
    figures = json.loads(files[2].read_text())
    assert figures["rank_gap_closed"] == pytest.approx(0.5) and figures["tables"]["coverage"]["occluded"]["0.5"] == 0.5
    assert "| visible | 0.0% | 0.0% | 0.0% | 50.0% | 50.0% |" in text and "Beside" not in text
    assert files[1].stat().st_size > 10_000
    assert set(report.GOALS) <= set(figures)


def test_the_report_shows_another_bundle_beside(results, tmp_path):
    bundle, other = (SimpleNamespace(name="open", version=version, hypotheses=15) for version in ("9", "8"))
    worse = replace(results, figures={key: 2 * value for key, value in results.figures.items()})
    files = report.write_report(results, bundle, "open545", tmp_path, "ofer", "a test", (other, worse))
    text = files[0].read_text()
    assert "## Beside open 8" in text and "| figure | what | open 8 | open 9 | goal |" in text
    assert "| 1 | 0.5 | at least 0.5 |" in text, "rank_gap_closed of both"
    assert "| head: random heads | 8 | 8 |" in text
    figures = json.loads(files[2].read_text())
    assert figures["beside"]["open 8"]["spread_ratio"] == 2 * figures["spread_ratio"]


def test_people_are_drawn_both_ways_with_a_truth_to_the_vertex(open_head):
    """Without MakeHuman's textures: painted ones stand in for them."""
    drawing = scenes.PeopleScenes(open_head, small_library(open_head))
    stream = [np.random.default_rng([5, number]) for number in range(5)]
    seen = next(found for _ in range(10) if (found := drawing(3, "object", stream.__getitem__)) is not None)
    images, samples = seen
    assert all(image.shape == (256, 256, 3) and image.dtype == np.uint8 for image in images)
    bare, covered = samples
    for sample in samples:
        if sample is None:  # MediaPipe need not find a face in flat colours
            continue
        projected = (open_head.decode(sample.betas, sample.expression, sample.jaw) @ sample.rotation.T
                     + sample.translation) @ sample.camera.T  # fmt: skip
        at = projected[sample.visible, :2] / projected[sample.visible, 2:]
        assert ((at > -1) & (at < 257)).all()
        facing = open_head.masks["face"]
        assert sample.visible[facing].mean() > 0.3
    if bare and covered:
        assert covered.occlusion > 0.05 > bare.occlusion and not (covered.visible & ~bare.visible).any()
