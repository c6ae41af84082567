"""Whether a bundle can run on this machine, under which licences, and what to do about what is missing: `ofer doctor`.

The bundle in question is not only looked at: its graphs are loaded and every stage is run once. Nothing is downloaded.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ofer_models.bundle.manifest import MANIFEST, MOST_BYTES, REGRESSOR, Bundle, BundleError, default_bundle
from ofer_models.bundle.share import share_folder
from ofer_models.cli import host
from ofer_models.cli.host import Finding
from ofer_models.files.documents import read_yaml
from ofer_models.files.refusal import FileRefused, one_line
from ofer_models.runtime import engine_cache

OFFICIAL_PAGES = (
    "weights: the OFER repository's page (prathebaselva/OFER), `Pretrained weights`; frontindices.npy and "
    "landmark_embedding.npy: its data folder, put beside the weights; "
    "head: the FLAME website (flame.is.tue.mpg.de), `FLAME 2020`, after registration"
)
_OFFICIAL_COMMAND = (
    "ofer import --idgen model_idgen_flame20.tar --idrank model_idrank.tar --expgen model_expgen_flame20.tar "
    "--flame generic_model.pkl"
)


@dataclass(frozen=True)
class BundleReport:
    """What is known of one bundle: error is empty when it is complete and its hashes are right.

    files: name -> origin, licence, commercial_use (inputs likewise: the files an imported bundle was made of).
    engines: number of compiled ones; stale_engines do not belong to the graphs beside them, each with the reason.
    """

    path: Path
    title: str
    error: str = ""
    remedy: str = ""
    files: dict[str, dict[str, Any]] = field(default_factory=dict)
    inputs: dict[str, dict[str, Any]] = field(default_factory=dict)
    engines: int = 0
    stale_engines: tuple[str, ...] = ()

    @property
    def commercial(self) -> bool:
        """Whether every file of it may be used commercially."""
        return bool(self.files) and all(
            file["commercial_use"] for file in (*self.files.values(), *self.inputs.values())
        )


@dataclass(frozen=True)
class Examination:
    """The whole report; runs tells whether the chosen bundle can be used, verdict says it in one line."""

    machine: list[Finding]
    bundles: list[BundleReport]
    chosen: Path
    runs: bool
    verdict: str
    remedies: list[str]


def examine(bundle: Path | None = None) -> Examination:
    """Examine machine and bundles; the chosen bundle, the shipped one by default, is also tried out."""
    chosen = Path(bundle) if bundle else default_bundle()
    findings = host.examine()
    reports = [report_on(folder) for folder in _folders(chosen)]
    of_chosen = next(report for report in reports if report.path == chosen)
    problems = [finding for finding in findings if finding.state == "problem"]
    reason = of_chosen.error
    if not reason and not problems:
        reason = try_out(chosen)
    elif not reason:
        reason = "; ".join(f"{finding.name}: {finding.detail}" for finding in problems)
    use = "commercial use allowed" if of_chosen.commercial else "no commercial use"
    verdict = f"{of_chosen.title} cannot run: {reason}" if reason else f"{of_chosen.title} can run here; {use}"
    remedies = [f"{finding.name}: {finding.remedy}" for finding in findings if finding.remedy]
    remedies += [f"{report.path}: {report.remedy}" for report in reports if report.remedy]
    if not any(report.title.startswith("official") for report in reports):
        remedies.append(f"official bundle (optional): {OFFICIAL_PAGES}; then `{_OFFICIAL_COMMAND}`")
    return Examination(findings, reports, chosen, not reason, verdict, remedies)


def report_on(folder: Path) -> BundleReport:
    """Whether a bundle is complete and undamaged, and what its manifest says of licences."""
    manifest = _manifest(folder)
    title = one_line(f"{manifest.get('name', folder.name)} {manifest.get('version', '')}")
    listed = {"files": _listed(manifest, "files"), "inputs": _listed(manifest, "inputs")}
    engines = engine_cache.entries(folder)
    refused = {entry.path.name: entry.refuse(folder / (entry.key.graph if entry.key else "")) for entry in engines}
    stale = tuple(f"{name} {reason}" for name, reason in refused.items() if reason)
    try:
        _ = Bundle.load(folder).head
    except BundleError as error:
        return BundleReport(folder, title, str(error), _remedy(folder, manifest), **listed)
    # A stale engine is built anew with one command; new 8-bit encoders need pictures, going back to fp32 does not.
    int8 = any(Path(name).suffix == engine_cache.INT8_SUFFIX for name, reason in refused.items() if reason)
    remedy = f"ofer build {'--prune ' * int8}--bundle {folder}: {'; '.join(stale)}" if stale else ""
    return BundleReport(folder, title, "", remedy, **listed, engines=len(engines), stale_engines=stale)


def _remedy(folder: Path, manifest: dict[str, Any]) -> str:
    """The command that brings a bundle back."""
    if "official" in (manifest.get("name"), folder.name):
        return f"{_OFFICIAL_COMMAND} --out {folder}"
    share = share_folder()
    shipped = share / "engines" / "open"
    if shipped.parent in folder.resolve().parents:
        return f"git checkout -- {folder}" if (share / ".git").exists() else "install ofer_ros again"
    if not folder.is_dir():
        return f"give the folder of a bundle: the shipped one is --bundle {shipped}"
    return f"ofer train --out {folder} makes an open bundle there; the shipped one is --bundle {shipped}"


def try_out(folder: Path) -> str:
    """Run every stage of a bundle once, and the face finder on an empty picture; why it fails, or nothing."""
    try:
        from ofer_models.head.landmark_sets import check_complete
        from ofer_models.perception.encoder_inputs import encoder_inputs
        from ofer_models.perception.frontend import FaceFrontend
        from ofer_models.runtime.stages import StageSet

        bundle = Bundle.load(folder)
        check_complete(bundle.head)
        frame, rng = np.full((240, 320, 3), 128, np.uint8), np.random.default_rng(0)
        FaceFrontend(1)(frame, 0.0)
        if REGRESSOR in bundle.stages and not _regresses(bundle):
            return "its regressor gives numbers that are not finite"
        if set(bundle.stages) == {REGRESSOR}:
            return ""
        stages = StageSet(bundle)
        inputs = encoder_inputs(frame, rng.uniform(80, 160, (1, 478, 3)), stages.encoder_inputs)

        def call(stage: Any, extra: dict[str, np.ndarray]) -> np.ndarray:
            available = inputs | extra
            outputs = stage(**{name: available[name] for name in stage.inputs})
            return outputs["score" if stage is stages.idrank else "context"]

        identity, expression = call(stages.identity_context, {}), call(stages.expression_context, {})
        noise = rng.standard_normal((1, 2, stages.idgen.n_coefficients), dtype=np.float32)
        betas = stages.idgen(identity, noise, rng).astype(np.float32)
        scores = call(stages.idrank, {"betas": betas, "context": identity})
        noise = rng.standard_normal((1, 2, stages.expgen.n_coefficients), dtype=np.float32)
        drawn = stages.expgen(expression, noise, rng)
        vertices = bundle.head.decode(betas[0], drawn[0, :, : bundle.n_expression], drawn[0, :, bundle.n_expression :])
        if not all(np.isfinite(array).all() for array in (scores, vertices)):
            return "its networks give numbers that are not finite"
    except Exception as error:  # whatever it is, the bundle does not run
        return one_line(error)
    return ""


def _regresses(bundle: Bundle) -> bool:
    """Whether the regressor gives a head, of an even picture."""
    from ofer_models.runtime.stages import StageSet

    regressor = StageSet(bundle, names=(REGRESSOR,)).regressor
    groups = regressor(np.zeros((1, 3, *[regressor.spec.crop.size] * 2), np.float32))
    vertices = bundle.head.decode(groups["shape"], groups["expression"], groups.get("jaw"))
    return all(np.isfinite(array).all() for array in (*groups.values(), vertices))


def _folders(chosen: Path) -> list[Path]:
    """The chosen bundle first, then its neighbours."""
    neighbours = sorted(path.parent for path in default_bundle().parent.glob(f"*/{MANIFEST}"))
    return [chosen, *(path for path in neighbours if path.resolve() != chosen.resolve())]


def _manifest(folder: Path) -> dict[str, Any]:
    """What a manifest says, in whatever state it is: what is wrong with it is left to `Bundle.load`."""
    try:
        content = read_yaml(folder / MANIFEST, MOST_BYTES)
    except (OSError, FileRefused):
        return {}
    return content if isinstance(content, dict) else {}


def _listed(manifest: dict[str, Any], key: str) -> dict[str, dict[str, Any]]:
    """Entries that have a licence; whatever else a damaged manifest holds is left to `Bundle.load`."""
    entries = manifest.get(key)
    if not isinstance(entries, dict):
        return {}
    return {
        one_line(name): {
            part: entry[part] is True if part == "commercial_use" else one_line(entry[part])
            for part in ("file", "origin", "licence", "commercial_use")
            if part in entry
        }
        for name, entry in entries.items()
        if isinstance(entry, dict) and {"licence", "commercial_use"} <= entry.keys()
    }
