"""Torch modules to ONNX files by tracing, for networks that need no fusing by hand (the encoders)."""

from __future__ import annotations

import gc
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from onnx import ModelProto
from torch import nn

from ofer_models.workshop.networks.onnx_graph import IR_VERSION, OPSET, Dims, check_file, halve_last, write_model


def export_module(
    module: nn.Module, path: str | Path, inputs: Mapping[str, Dims], outputs: Sequence[str]
) -> None:
    """Write a module in inference mode as one ONNX file with float32 inputs and outputs.

    inputs: the names of `forward`'s arguments and their shapes, symbolic dimensions as strings such as 'F' and 'N'.
    outputs: names for what `forward` returns.
    """
    symbols = sorted({dim for dims in inputs.values() for dim in dims if isinstance(dim, str)})
    sizes = {symbol: 2 + i for i, symbol in enumerate(symbols)}  # distinct, and not one: tracing makes ones constants
    dims = {symbol: torch.export.Dim(symbol) for symbol in symbols}
    examples = {name: torch.zeros([sizes.get(dim, dim) for dim in shape]) for name, shape in inputs.items()}
    dynamic = {
        name: {axis: dims[dim] for axis, dim in enumerate(shape) if dim in dims} for name, shape in inputs.items()
    }
    with _quiet(), torch.no_grad():
        program = torch.onnx.export(
            module.eval(),
            kwargs=examples,
            dynamo=True,
            opset_version=OPSET,
            input_names=list(inputs),
            output_names=list(outputs),
            dynamic_shapes=dynamic,
            verbose=False,
        )
    model = program.model_proto
    del program
    gc.collect()  # the exporter's objects refer to each other, and hold the weights
    _forget_origin(model)
    halve_last(model)
    write_model(model, path)
    del model
    gc.collect()
    check_file(path)


def _forget_origin(model: ModelProto) -> None:
    """Drop the exporter's notes (paths, stack traces, versions), so that the same weights give the same bytes."""
    model.ir_version = IR_VERSION
    model.producer_name, model.producer_version = "ofer_models", ""
    del model.metadata_props[:], model.graph.metadata_props[:], model.graph.value_info[:]
    for part in (*model.graph.node, *model.graph.input, *model.graph.output, *model.graph.initializer):
        del part.metadata_props[:]
        part.doc_string = ""


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence the exporter's remarks about packages it does not find and axis names it merges."""
    levels = {logger: logger.level for logger in map(logging.getLogger, ("torch.onnx", "onnxscript", "onnx_ir"))}
    for logger in levels:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in levels.items():
            logger.setLevel(level)
