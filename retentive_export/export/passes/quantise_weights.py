"""Pass: constant matrices become blocks of int4 or int8 codes, in ONNX Runtime's operators. In place.

`MatMul` by a constant matrix, or by the transpose of one, becomes `MatMulNBits`. A table that `Gather` takes rows from
is int8 in either format, becomes `GatherBlockQuantized`, and goes on sharing its codes with a head that is its
transpose.

int4: scales and zero points of any real value, which `MatMulNBits` computes slowly. Its zero point is therefore 8, and
what is missing is added: x W = x [s (q - 8)] + sums(x) [s (8 - z)], where sums(x) are those of x over each block.

Postcondition: no float matrix that a MatMul or Gather of the main graph reads is left, and the initializers and
transposes that nothing reads any more are gone.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from retentive_export.errors import ExportError
from retentive_export.export.passes.constants import new_initializer
from retentive_export.export.passes.matrices import constant_matrix, drop_unread
from retentive_export.export.passes.merge_projections import merge_projections
from retentive_export.export.passes.weight_codes import int4_codes, int8_codes
from retentive_export.spec.weights import WeightsRecord, WeightsSection

__all__ = ["quantise_weights"]

CONTRIB = "com.microsoft"
_INT8_ACTIVATIONS = 4
"""accuracy_level: products whose input is rounded to 8 bits per block, as llama.cpp's are. On a CPU with VNNI 2.4
times as fast for 4-bit codes; 8-bit codes have no other fast kernel."""


@dataclass(frozen=True, kw_only=True)
class _Matrix:
    """A quantised matrix [inputs, outputs]. values: codes, scales and, int8, zero points, as `MatMulNBits` takes them.
    offsets: [blocks, outputs], int4 alone."""

    inputs: int
    outputs: int
    bits: int
    values: list[ir.Value]
    offsets: ir.Value | None = None

    @property
    def nbytes(self) -> int:
        stored = [*self.values, *([self.offsets] if self.offsets else [])]
        return sum(value.const_value.nbytes for value in stored if value.const_value is not None)


def quantise_weights(model: ir.Model, weights: WeightsSection) -> WeightsRecord:
    """Quantise every matrix of the main graph, those with a common input as one; what was made of them.

    Raises:
        ExportError: a MatMul by a constant whose input's rank is not known.
    """
    merge_projections(model)
    work = _Quantiser(model.graph, weights)
    nodes = [node for node in model.graph if node.domain == ""]
    for node in nodes:
        if node.op_type == "Gather":
            work.gather(node)
    for node in nodes:
        if node.op_type == "MatMul":
            work.matmul(node)
    drop_unread(model.graph)
    model.opset_imports[CONTRIB] = 1
    made = work.made.values()
    return WeightsRecord(
        format="int4" if weights.format == "int4" else "int8",
        block=weights.block,
        matrices=len(made),
        parameters=sum(matrix.inputs * matrix.outputs for matrix in made),
        bytes=sum(matrix.nbytes for matrix in made),
    )


class _Quantiser:
    def __init__(self, graph: ir.Graph, weights: WeightsSection) -> None:
        self.graph, self.weights = graph, weights
        self.made: dict[tuple[ir.Value, bool], _Matrix] = {}
        self._sums: dict[ir.Value, ir.Value] = {}

    def matmul(self, node: ir.Node) -> None:
        """`MatMulNBits` in the place of a MatMul by a constant, with the blocks' offsets for int4."""
        source, by_rows = constant_matrix(node.inputs[1])
        if source is None:
            return
        matrix = self._matrix(source, by_rows=by_rows, bits=self.weights.bits)
        attributes = {
            "K": matrix.inputs,
            "N": matrix.outputs,
            "bits": matrix.bits,
            "block_size": self.weights.block,
            "accuracy_level": _INT8_ACTIVATIONS,
        }
        x = node.inputs[0]
        assert x is not None
        product = ir.node(
            "MatMulNBits", [x, *matrix.values], attributes, domain=CONTRIB, name=f"{node.name}_q{matrix.bits}"
        )
        nodes = [product]
        if matrix.offsets is not None:
            sums = self._block_sums(x, matrix.inputs, node)
            nodes.append(ir.node("MatMul", [sums, matrix.offsets], name=f"{node.name}_offsets"))
            nodes.append(ir.node("Add", [product.outputs[0], nodes[1].outputs[0]], name=f"{node.name}_sum"))
        self._replace(node, nodes)

    def gather(self, node: ir.Node) -> None:
        """`GatherBlockQuantized` in the place of a Gather of rows from a constant table; int8."""
        source, by_rows = constant_matrix(node.inputs[0])
        if source is None or by_rows or node.attributes.get_int("axis", 0) != 0:
            return
        matrix = self._matrix(source, by_rows=True, bits=8)
        codes, scales, zeros = matrix.values
        width = -(-matrix.inputs // self.weights.block) * self.weights.block
        shape = new_initializer(self.graph, f"{source.name}_table_shape", np.array([matrix.outputs, width], np.int64))
        table = ir.node("Reshape", [codes, shape], name=f"{node.name}_table")
        attributes = {"gather_axis": 0, "quantize_axis": 1, "bits": 8, "block_size": self.weights.block}
        inputs = [table.outputs[0], node.inputs[1], scales, zeros]
        nodes = [table, ir.node("GatherBlockQuantized", inputs, attributes, domain=CONTRIB, name=f"{node.name}_q8")]
        if width != matrix.inputs:  # the last block of a row is padded
            ends = {"start": 0, "end": matrix.inputs, "axis": -1}
            cut = [new_initializer(self.graph, f"{source.name}_{k}", np.array([v], np.int64)) for k, v in ends.items()]
            nodes.append(ir.node("Slice", [nodes[-1].outputs[0], *cut], name=f"{node.name}_cut"))
        self._replace(node, nodes)

    def _matrix(self, source: ir.Value, *, by_rows: bool, bits: int) -> _Matrix:
        """Quantise once; by_rows: the constant is [outputs, inputs], the layout of a table and of a Linear."""
        if (source, by_rows) not in self.made:
            assert source.const_value is not None
            array = source.const_value.numpy()
            rows = np.ascontiguousarray(array if by_rows else array.T)
            coded = (int8_codes if bits == 8 else int4_codes)(rows, self.weights.block)
            made = [new_initializer(self.graph, f"{source.name}_{name}", part) for name, part in coded.items()]
            self.made[source, by_rows] = _Matrix(
                inputs=rows.shape[1],
                outputs=rows.shape[0],
                bits=bits,
                values=made[:3] if bits == 8 else made[:2],
                offsets=None if bits == 8 else made[2],
            )
        return self.made[source, by_rows]

    def _block_sums(self, x: ir.Value, size: int, before: ir.Node) -> ir.Value:
        """Sums of x [.., size] over the blocks of its last axis; one chain of nodes for all who read x."""
        if x not in self._sums:
            if x.shape is None:
                raise ExportError(f"{before.name} multiplies {x.name} by weights, and its rank is not known")
            block, rank = self.weights.block, len(x.shape)
            blocks, nodes = -(-size // block), list[ir.Node]()
            whole = x
            if padding := blocks * block - size:
                pads = self._shared(f"pad_{rank}_{padding}", [0] * (2 * rank - 1) + [padding])
                nodes.append(ir.node("Pad", [x, pads], name=f"{x.name}_padded"))
                whole = nodes[-1].outputs[0]
            shape = self._shared(f"blocks_{rank}_{blocks}", [0] * (rank - 1) + [blocks, block])
            nodes.append(ir.node("Reshape", [whole, shape], name=f"{x.name}_blocks"))
            inputs = [nodes[-1].outputs[0], self._shared("block_axis", [-1])]
            nodes.append(ir.node("ReduceSum", inputs, {"keepdims": 0}, name=f"{x.name}_sums"))
            self.graph.insert_before(before, nodes)
            self._sums[x] = nodes[-1].outputs[0]
        return self._sums[x]

    def _shared(self, name: str, numbers: list[int]) -> ir.Value:
        name = f"quantised_{name}"
        known = self.graph.initializers.get(name)
        return new_initializer(self.graph, name, np.array(numbers, np.int64)) if known is None else known

    def _replace(self, node: ir.Node, nodes: list[ir.Node]) -> None:
        ir.convenience.replace_nodes_and_values(self.graph, node, [node], nodes, node.outputs, nodes[-1].outputs)
