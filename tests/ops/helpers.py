"""Geometries, random states and one-node models for the operator tests."""

from __future__ import annotations

import onnx_ir as ir
import onnxruntime as ort
import torch

from retentive_export.cache.latent import LatentBasis
from retentive_export.cache.step import empty_state, layer_step
from retentive_export.ops.contract import DOMAIN, OPS, VERSION, attributes
from retentive_export.ops.onnx_functions import OPSET, example_inputs, function_body
from retentive_export.spec.gate import GateConfig, SigmoidGate
from retentive_export.spec.geometry import CacheGeometry

BASE = {"kv_heads": 2, "q_heads": 6, "head_dim": 8, "sinks": 2, "window": 5, "chunk": 5}
MEMORY = {"memory_grid": (2, 3), "recall_rows": 3, "frame_grid": (4, 6), "readout": "mass"}
GEOMETRIES = {
    "exact": CacheGeometry(**BASE, exact_rows=13),
    "mass": CacheGeometry(**BASE, exact_rows=13, **MEMORY),
    "recall-only": CacheGeometry(**BASE, exact_rows=13, recall_rows=2, readout="mass"),
    "residual": CacheGeometry(**BASE, exact_rows=13, readout="residual"),
    "int8": CacheGeometry(**BASE, exact_rows=0, coarse_rows=17, coarse_dtype="int8"),
    "exact+int4": CacheGeometry(**BASE, exact_rows=9, coarse_rows=14, coarse_dtype="int4", **MEMORY),
    "exact+int8-memory": CacheGeometry(
        **BASE, exact_rows=9, coarse_rows=14, coarse_dtype="int8", memory_store="coarse", **MEMORY
    ),
    "int4-memory": CacheGeometry(
        **BASE, exact_rows=0, coarse_rows=14, coarse_dtype="int4", memory_store="coarse", **MEMORY
    ),
    "untracked": CacheGeometry(**BASE, exact_rows=13, track_importance=False, track_entropy=False),
    "batch": CacheGeometry(**BASE, batch=2, exact_rows=13, **MEMORY),
    "latent": CacheGeometry(**BASE, exact_rows=0, latent_rows=17, latent_rank=6),
    "exact+latent-memory": CacheGeometry(
        **BASE, batch=2, exact_rows=9, latent_rows=14, latent_rank=6, memory_store="latent", **MEMORY
    ),
    "int8+latent4-memory": CacheGeometry(
        **BASE,
        exact_rows=0,
        coarse_rows=9,
        latent_rows=14,
        latent_rank=8,
        latent_dtype="int4",
        memory_store="latent",
        **MEMORY,
    ),
    "mixed-latent-memory": CacheGeometry(
        **BASE,
        exact_rows=9,
        latent_rows=14,
        latent_rank=8,
        latent_dtype="mixed",
        latent_int8=2,
        latent_int4=2,
        memory_store="latent",
        **MEMORY,
    ),
    "exact+int4+latent": CacheGeometry(
        **BASE,
        exact_rows=8,
        coarse_rows=6,
        coarse_dtype="int4",
        latent_rows=9,
        latent_rank=5,
        latent_dtype="model",
        track_entropy=False,
    ),
}
GATE = GateConfig(
    retention=SigmoidGate(enabled=True, weight=1.5, bias=0.5),
    absorption=SigmoidGate(enabled=True, weight=0.7, bias=-0.2),
    readout=SigmoidGate(enabled=True, weight=-1.0, bias=0.3),
    beta=0.25,
)
SCALE = 0.35


def random_tokens(geometry, steps, start, generator):
    """query, key, value, token_meta of `steps` tokens, about half of them visual."""
    shape = (geometry.batch, geometry.kv_heads, steps, geometry.head_dim)
    query = torch.randn(geometry.batch, geometry.q_heads, *shape[2:], generator=generator)
    key, value = torch.randn(shape, generator=generator), torch.randn(shape, generator=generator)
    height, width = geometry.frame_grid
    y = torch.randint(0, height, (geometry.batch, steps), generator=generator)
    x = torch.randint(0, width, (geometry.batch, steps), generator=generator)
    visual = torch.rand(geometry.batch, steps, generator=generator) < 0.5
    cell = torch.where(visual, y * 65536 + x, -1)
    position = torch.arange(start, start + steps).expand(geometry.batch, -1)
    return query, key, value, torch.stack([position, cell], dim=-1).to(torch.int32)


def key_scale(geometry):
    return torch.full((geometry.kv_heads, geometry.head_dim), 0.03) if geometry.coarse_rows else None


def latent_basis(geometry):
    """Orthonormal columns, scaled so that latents of standard normal keys and values fill their codes."""
    if not geometry.latent_rows:
        return None
    heads, dim, rank = geometry.kv_heads, geometry.head_dim, geometry.latent_rank
    generator = torch.Generator().manual_seed(1)
    columns, _ = torch.linalg.qr(torch.randn(heads * 2 * dim, rank, generator=generator))
    widths = [torch.full((count,), {8: 0.03, 4: 0.5, 2: 1.0}[bits]) for bits, count in geometry.latent_parts]
    step = torch.cat(widths) if widths else 1.0
    mean = 0.3 * torch.randn(heads, 2 * dim, generator=generator)
    columns = columns.reshape(heads, 2 * dim, rank)
    return LatentBasis(columns / step, columns * step, mean)


def random_state(geometry, tokens, generator):
    """The reference's state after `tokens` random tokens."""
    state, seen = empty_state(geometry), 0
    while seen < tokens:
        steps = min(geometry.chunk, tokens - seen)
        fresh = random_tokens(geometry, steps, seen, generator)
        constants = {"geometry": geometry, "gate": GATE, "scale": SCALE, "basis": latent_basis(geometry)}
        _, state = layer_step(*fresh, state, key_scale(geometry), **constants)
        seen += steps
    return state


_SESSIONS: dict[tuple[str, CacheGeometry, GateConfig], ort.InferenceSession] = {}


def run_function(op, geometry, named, gate=GATE):
    """Outputs of the operator's ONNX function under ONNX Runtime, as a dict of tensors."""
    session = _SESSIONS.get((op, geometry, gate))
    if session is None:
        session = _SESSIONS[op, geometry, gate] = _session(op, geometry, gate)
    outputs = session.run(None, {name: named[name].numpy() for name in OPS[op].input_names(geometry)})
    return {name: torch.from_numpy(x) for name, x in zip(OPS[op].output_names(geometry), outputs, strict=True)}


def _session(op, geometry, gate):
    contract = OPS[op]
    inputs = []
    for name, example in example_inputs(op, geometry, 1).items():
        rank = example.dim()
        kind = {"float32": "FLOAT", "int8": "INT8", "uint8": "UINT8", "int32": "INT32", "int64": "INT64"}
        dtype = ir.DataType[kind[str(example.dtype).removeprefix("torch.")]]
        shape = ir.Shape([f"{name}_{i}" for i in range(rank)])
        inputs.append(ir.Value(name=name, type=ir.TensorType(dtype), shape=shape))
    names = contract.output_names(geometry)
    constants = [
        ir.AttrString(k, v)
        if isinstance(v, str)
        else ir.AttrFloat32(k, v)
        if isinstance(v, float)
        else ir.AttrInt64s(k, v)
        if isinstance(v, list)
        else ir.AttrInt64(k, v)
        for k, v in attributes(geometry, gate, SCALE).items()
    ]
    node = ir.Node(DOMAIN, op, inputs, constants, num_outputs=len(names))
    for output, name in zip(node.outputs, names, strict=True):
        output.name = f"{name}_result"
    graph = ir.Graph(inputs, node.outputs, nodes=[node], opset_imports={"": OPSET, DOMAIN: VERSION}, name="one")
    function = function_body(op, geometry, gate, SCALE)
    model = ir.Model(graph, ir_version=10, functions=[function])
    proto = ir.to_proto(model)
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    return ort.InferenceSession(proto.SerializeToString(), options)
