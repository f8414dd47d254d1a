"""TensorRT (10.3 to 11.x) and TensorRT-RTX: engines from the artifact's graphs, and sessions on them.

    vendor.py    what differs between the two, and between their versions
    graph.py     which custom nodes an ONNX file holds, read without the package onnx
    layers.py    what a built engine holds: layers, inputs, outputs; the checks on them
    build.py     one graph -> one plan, in this process
    worker.py    the process that runs build.py
    builder.py   what the pipeline calls: starts the worker, relays progress and errors
    device.py    device memory, one stream and graphs, through cuda-bindings
    buffers.py   which buffer lies where, of which type
    execution.py one engine on one device: a step of T tokens
    runtime.py   the backends

No module here imports a vendor's package when it is imported. See docs/tensorrt.md.
"""
