"""Torch-free facts: recipe, geometry, plan, layouts, manifest, targets. What a device and an exporter must agree on."""
