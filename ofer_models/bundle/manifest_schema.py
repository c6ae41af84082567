"""What a manifest may say: every field with its kind and range."""

from __future__ import annotations

from ofer_models.bundle import regression
from ofer_models.files.schema import choice, either, flag, integer, mapping, number, record, sequence, text

_FILE_NAME = text(r"[A-Za-z0-9_][A-Za-z0-9._-]*", 128, "the plain name of a file in the bundle's folder")
_TENSOR = text(r"[A-Za-z0-9_./:-]+", 128, "a tensor's name")
_SHAPE = sequence(either(text(r"[A-Za-z_]\w*", 32), integer(1, 1 << 24)), 0, 8)
_TENSORS = mapping(_TENSOR, _SHAPE, 64)
_LICENCE = {"licence": text(), "commercial_use": flag}
_HASH = text(r"[0-9a-f]{64}", 64, "64 hexadecimal digits")
_STAGE = record(
    {
        "kind": choice("graph", "sampler", "regressor"),
        "files": mapping(choice("graph", "cond", "step", "noise"), _FILE_NAME, 4),
        "inputs": _TENSORS,
        "outputs": _TENSORS,
    },
    {
        "solver": text(r"\w+", 32),
        "spacing": text(r"\w+", 32),
        "steps": integer(1, 1000),
        "temperature": either(sequence(number(0, 100), 2, 2), number(0, 100)),
        "coefficients": record(
            {"mean": sequence(number(-1e6, 1e6), 1, 4096), "deviation": sequence(number(0, 1e6), 1, 4096)}
        ),
        "distilled": record(
            {"files": mapping(choice("cond", "step"), _FILE_NAME, 2), "timesteps": sequence(integer(0, 999), 1, 64)}
        ),
        **regression.FIELDS,
    },
)


def manifest_schema(stages: tuple[str, ...]):
    """The check of a whole manifest with some of these stages."""
    return record(
        {
            "format": integer(1, 1),
            "name": text(most=100),
            "version": either(text(most=100), number(0, 1e6)),
            "n_shape": integer(1, 4096),
            "n_expression": integer(1, 4096),
            "candidates": integer(1, 4096),
            "hypotheses": integer(1, 4096),
            "stages": record({}, dict.fromkeys(stages, _STAGE)),
            "files": mapping(
                _FILE_NAME, record({"sha256": _HASH, "origin": text(), **_LICENCE}), 100
            ),
        },
        {
            "jaw": integer(3, 3),
            "jaw_scale": number(-10, 10),
            "expression_range": either(sequence(number(-1e3, 1e3), 2, 2), _nothing),
            "rank_alone": flag,
            "landmark_evidence": flag,
            "same_face": sequence(number(-1, 1), 2, 2),
            "released_quirks": flag,
            "query_key_value_maps": mapping(text(r"\w+", 32), text(r"\w+", 32), 8),
            "inputs": mapping(text(r"\w+", 32), record({"file": text(), "sha256": _HASH, **_LICENCE}), 32),
        },
    )


def _nothing(value: object, field: str) -> None:
    if value is not None:
        sequence(number(-1e3, 1e3), 2, 2)(value, field)
