"""ONNX graphs in 8-bit integers for ONNX Runtime on CPUs, and whether such a graph may stand in for its original.

Convolutions take their ranges from pictures of faces (without, ONNX Runtime gains nothing on them); matrix products
find theirs at every call, which keeps a transformer's outliers. Weights have a range for each channel.

Needs onnx, as all of building does.
"""

from __future__ import annotations

import logging
import statistics
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence, Set
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ofer_models.bundle.tensors import GraphSpec, StageError
from ofer_models.runtime.onnxruntime_backend import OnnxStage
from ofer_models.runtime.stored_weights import unpacked

Arrays = Mapping[str, np.ndarray]
_DYNAMIC = frozenset({"MatMul", "Gemm"})  # the one is made of the other on the way
PRODUCTS = frozenset({"Conv", *_DYNAMIC})
MOST_LOST, LEAST_GAIN = 0.02, 1.2
_REPEATS = 7


@dataclass(frozen=True)
class Verdict:
    """A quantized graph against its original: `lost`, the share of what tells faces (or the samples that a graph ranks)
    apart that becomes noise, in the worst of its encoders; `cosine`, the lowest of a face's whole output; ms of
    processor time for one face on one thread.
    """

    lost: float
    cosine: float
    ms: float
    ms_int8: float

    @property
    def refused(self) -> str:
        """Why the original is kept; '' if the quantized graph is good and faster."""
        if not self.lost <= MOST_LOST:
            return f"int8 loses {self.lost:.1%} of what tells faces apart (at most {MOST_LOST:.0%})"
        if not self.ms >= LEAST_GAIN * self.ms_int8:
            return f"int8 takes {self.ms_int8:.2f} ms here, fp32 {self.ms:.2f} (at least {LEAST_GAIN} times faster)"
        return ""


def quantized(graph: Path, examples: Sequence[Arrays], exact: bool = True, kinds: Set[str] = PRODUCTS) -> bytes:
    """The graph with its products in 8 bits, as a file's content; inputs and outputs stay float32.

    examples: inputs of single faces, for the ranges of what enters convolutions. exact: whether the processor adds
    8-bit products without saturating; weights get 7 bits where it does not. kinds: of PRODUCTS, those that are
    quantized. Raises StageError for a file that is no graph or has nothing to quantize.
    """
    try:
        import onnx
        from onnxruntime import quantization as q
    except ImportError as error:
        raise StageError(f"quantizing needs {error.name}: run `make train-env`") from None
    try:
        model = unpacked(onnx.load(graph))
    except Exception as error:  # the parser raises many types
        raise StageError(f"{graph.name}: cannot be read as ONNX ({str(error).splitlines()[0]})") from None
    kinds = kinds & {node.op_type for node in model.graph.node}
    if not kinds:
        raise StageError(f"{graph.name}: has no products to quantize")

    class Reader(q.CalibrationDataReader):
        rows = iter(examples)

        def get_next(self) -> dict[str, np.ndarray] | None:
            row = next(self.rows, None)
            return None if row is None else dict(row)

    with tempfile.TemporaryDirectory(prefix="ofer-int8-") as folder, _quiet():
        out = Path(folder) / "int8.onnx"
        del model.graph.value_info[:]  # shapes are found anew
        if "Conv" in kinds:
            q.quantize_static(
                model, out, Reader(), quant_format=q.QuantFormat.QDQ, op_types_to_quantize=["Conv"], per_channel=True,
                activation_type=q.QuantType.QUInt8, weight_type=q.QuantType.QInt8, reduce_range=not exact,
            )  # fmt: skip
            model = onnx.load(out)
        if kinds & _DYNAMIC:
            q.quantize_dynamic(
                model, out, op_types_to_quantize=sorted(_DYNAMIC), per_channel=True, weight_type=q.QuantType.QInt8,
                reduce_range=not exact, extra_options={"DefaultTensorType": onnx.TensorProto.FLOAT},
            )  # fmt: skip
        return out.read_bytes()


def judge(original: GraphSpec, candidate: GraphSpec, examples: Sequence[Arrays]) -> Verdict:
    """Run both on single faces that the ranges do not come from. Raises StageError where one cannot run."""
    both = [OnnxStage(g.path, inputs=g.inputs, outputs=g.outputs) for g in (original, candidate)]
    results = [[stage(**row) for row in examples] for stage in both]
    lost, cosine = 0.0, 1.0
    for name, dims in both[0].outputs.items():
        expected, found = (np.concatenate([result[name] for result in rows]) for rows in results)
        if isinstance(dims[-1], str):  # scores of one face's samples, of which the order counts
            lost = max(lost, lost_variation(expected.T, (found - (found - expected).mean(-1, keepdims=True)).T))
        else:
            start = 0
            for width in _joined(original.path, name) or [expected.shape[-1]]:
                part = slice(start, start + width)
                lost, start = max(lost, lost_variation(expected[..., part], found[..., part])), start + width
        norms = np.linalg.norm(expected, axis=-1) * np.linalg.norm(found, axis=-1)
        cosine = min(cosine, float(((expected * found).sum(-1) / norms).min()))
    taken: list[list[float]] = [[], []]
    for _ in range(_REPEATS):  # in turns, so that a busy machine slows both
        for stage, times in zip(both, taken, strict=True):
            started = time.process_time()
            stage(**examples[0])
            times.append(1000 * (time.process_time() - started))
    return Verdict(lost, cosine, *map(statistics.median, taken))


def lost_variation(expected: np.ndarray, found: np.ndarray) -> float:
    """Squared error over the variance along the first axis, both summed over the rest: 0 for equal, 1 for noise."""
    return float(((found - expected) ** 2).sum() / max(((expected - expected.mean(0)) ** 2).sum(), 1e-12))


def _joined(graph: Path, output: str) -> list[int]:
    """Widths of what an output is joined of: an encoder of large numbers must not hide what another one loses."""
    import onnx

    model = onnx.shape_inference.infer_shapes(onnx.load(graph)).graph
    shapes = {value.name: value.type.tensor_type.shape.dim for value in model.value_info}
    widths = {name: dims[-1].dim_value for name, dims in shapes.items() if dims}
    joins = [node for node in model.node if node.op_type == "Concat" and output in node.output]
    found = [widths.get(name, 0) for node in joins for name in node.input]
    return found if all(found) else []


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence the quantizer's remarks."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(level)
