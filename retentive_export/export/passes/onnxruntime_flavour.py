"""Pass: the graph as ONNX Runtime is to run it. Functional: the graph's weights are shared, not copied.

The operators' bodies are inlined and what nobody reads is gone, some chains of standard operators are ONNX Runtime's
own operators, and writes of the state wait for its reads. Every stored weight keeps its name and its bytes, so that
all flavours share one file.
"""

from __future__ import annotations

import onnx_ir as ir

from retentive_export.export.passes.divide_by_norms import divide_by_norms
from retentive_export.export.passes.fuse_rotary import fuse_rotary
from retentive_export.export.passes.inline_bodies import inline_bodies, tidy
from retentive_export.export.passes.order_writes import order_reads_before_writes

__all__ = ["onnxruntime_flavour"]


def onnxruntime_flavour(model: ir.Model) -> ir.Model:
    """A model of standard operators and ONNX Runtime's, for state bound in place."""
    flavour = model.clone()
    inline_bodies(flavour)
    divide_by_norms(flavour)
    if all(value.dtype != ir.DataType.BFLOAT16 for value in flavour.graph.inputs):
        fuse_rotary(flavour)
    tidy(flavour)
    order_reads_before_writes(flavour)
    return flavour
