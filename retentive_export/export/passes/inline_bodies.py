"""Pass: the operators' bodies in their nodes' places, and what that makes superfluous taken away. In place.

A body computes everything that its operator may yield. In a graph, much of that is read by nobody (the visual entropy
of a text-only model, the statistics of a full cache), and what depends on `token_meta` alone is the same in every
layer.

Postcondition: no function is left, no node of our domain, no node whose outputs nobody reads, no node twice.
"""

from __future__ import annotations

import onnx_ir as ir
from onnx_ir.passes import common

from retentive_export.ops.contract import DOMAIN

__all__ = ["inline_bodies", "steps_from_meta"]

_STEP_AXIS = {"query": 2, "key": 2, "value": 2}


def inline_bodies(model: ir.Model) -> None:
    """Inline every function of the model, then drop repeated and unread nodes."""
    for function in model.functions.values():
        steps_from_meta(function)
    common.InlinePass()(model)
    model.opset_imports.pop(DOMAIN, None)
    tidy(model)


def steps_from_meta(function: ir.Function) -> None:
    """Read the number of new tokens from `token_meta`, which all layers share, where a body reads it from the layer's
    own query, key or value: everything that follows from it is then the same in every layer."""
    named = {value.name: value for value in function.inputs}
    meta = named.get("token_meta")
    axes = {named[name]: axis for name, axis in _STEP_AXIS.items() if name in named}
    if meta is None:
        return
    for node in list(function):
        source = node.inputs[0] if node.op_type == "Shape" else None
        axis = axes.get(source) if source is not None else None
        if axis is None or (node.attributes.get_int("start", 0), node.attributes.get_int("end", -1)) != (
            axis,
            axis + 1,
        ):
            continue
        node.replace_input_with(0, meta)
        node.attributes["start"], node.attributes["end"] = ir.AttrInt64("start", 1), ir.AttrInt64("end", 2)


def tidy(model: ir.Model) -> None:
    """One node for equal computations; none for those that nobody reads."""
    common.CommonSubexpressionEliminationPass()(model)
    common.RemoveUnusedNodesPass()(model)
