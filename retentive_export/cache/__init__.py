"""The maths of the bounded cache in plain PyTorch: the one definition that everything else is checked against.

attention -> gate -> transition (-> memory), put together in `step`; `loop` holds the state of all layers; `policies`
are other scores behind the same gate. Plain tensors only: nothing here knows a model.
"""
