"""Passes: the two flavours of one graph.

`attach_functions`: the bodies that ONNX Runtime's flavour has inlined. In place.
`tensorrt_flavour`: no bodies, so that TensorRT's parser takes the plugins (up to 10.6 a body of the same name would
win); `plugin_version` and `plugin_namespace` are set on every node (10.15 and later need the latter), and
`declare_alias` on every StateTransition; packed codes are int8. Functional: the graph's weights are shared, not copied.
"""

from __future__ import annotations

from collections.abc import Iterable

import onnx_ir as ir

from retentive_export.errors import ExportError
from retentive_export.export.passes.signed_codes import sign_codes
from retentive_export.ops.contract import DOMAIN, VERSION

__all__ = ["attach_functions", "custom_nodes", "tensorrt_flavour"]


def custom_nodes(model: ir.Model) -> list[ir.Node]:
    """Nodes of our domain, in graph order."""
    return [node for node in model.graph if node.domain == DOMAIN]


def attach_functions(model: ir.Model, functions: Iterable[ir.Function]) -> None:
    """Give the model the bodies of all custom operators that it uses.

    Raises:
        ExportError: a node has no body.
    """
    for function in functions:
        model.functions[function.identifier()] = function
    known = {identifier[1] for identifier in model.functions}
    for node in custom_nodes(model):
        if node.op_type not in known:
            raise ExportError(f"node {node.name!r} of type {node.op_type!r} has no function body")
    model.opset_imports[DOMAIN] = VERSION


def tensorrt_flavour(model: ir.Model) -> ir.Model:
    """A model with the same graph and weights, without bodies and with plugin attributes."""
    bare = model.clone()
    bare.functions.clear()
    for node in custom_nodes(bare):
        node.attributes["plugin_version"] = ir.AttrString("plugin_version", str(VERSION))
        node.attributes["plugin_namespace"] = ir.AttrString("plugin_namespace", DOMAIN)
        if node.op_type == "StateTransition":
            # State is updated in place because both names are bound to one address (docs/tensorrt.md).
            node.attributes["declare_alias"] = ir.AttrInt64("declare_alias", 0)
    sign_codes(bare)
    return bare
