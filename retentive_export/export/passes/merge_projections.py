"""Pass: products of one input by several constant matrices become one product, split afterwards. In place.

A layer's query, key and value projections read the same input, and so do its gate and up projections. One wide product
costs one start and one pass over the input, which counts where the matrices are small and quantised.

Precondition: the matrices are plain initializers [inputs, outputs], or transposes of [outputs, inputs].
Postcondition: no input is read by two MatMul of one kind.
"""

from __future__ import annotations

from collections import defaultdict

import numpy as np
import onnx_ir as ir

from retentive_export.export.passes.constants import new_initializer
from retentive_export.export.passes.matrices import constant_matrix

__all__ = ["merge_projections"]


def merge_projections(model: ir.Model) -> None:
    """Merge every group of at least two MatMul that share their input; the new matrix has their outputs in order."""
    graph = model.graph
    groups: dict[tuple[ir.Value, bool], list[ir.Node]] = defaultdict(list)
    for node in graph:
        if node.op_type != "MatMul" or node.domain != "" or node.inputs[0] is None:
            continue
        matrix, turned = constant_matrix(node.inputs[1])
        if matrix is not None:
            groups[node.inputs[0], turned].append(node)
    for (x, turned), nodes in groups.items():
        if len(nodes) > 1:
            _merge(graph, x, turned, nodes)


def _merge(graph: ir.Graph, x: ir.Value, turned: bool, nodes: list[ir.Node]) -> None:
    sources = [constant_matrix(node.inputs[1])[0] for node in nodes]
    arrays = [source.const_value.numpy() for source in sources if source is not None and source.const_value is not None]
    axis = 0 if turned else 1
    stem = f"{nodes[0].name}_merged"
    matrix = new_initializer(graph, f"{stem}_matrix", np.concatenate(arrays, axis=axis))
    sizes = np.array([array.shape[axis] for array in arrays], np.int64)
    split = new_initializer(graph, f"{stem}_sizes", sizes)
    new = [ir.node("Transpose", [matrix], {"perm": [1, 0]}, name=f"{stem}_turned")] if turned else []
    new.append(ir.node("MatMul", [x, new[0].outputs[0] if turned else matrix], name=stem))
    wide = new[-1].outputs[0]
    rank = None if nodes[0].outputs[0].shape is None else list(nodes[0].outputs[0].shape)[:-1]
    wide.type = nodes[0].outputs[0].type
    wide.shape = None if rank is None else ir.Shape([*rank, int(sizes.sum())])
    new.append(ir.node("Split", [wide, split], {"axis": -1}, num_outputs=len(nodes), name=f"{stem}_parts"))
    for node, part in zip(nodes, new[-1].outputs, strict=True):
        part.name, part.type, part.shape = f"{node.outputs[0].name}_part", node.outputs[0].type, node.outputs[0].shape
        node.outputs[0].replace_all_uses_with(part, replace_graph_outputs=True)
    graph.insert_before(nodes[0], new)
    graph.remove(nodes, safe=True)
