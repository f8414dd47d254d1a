"""The three custom operators of domain `com.retentivekv`, version 1.

    RetentiveAttention   attention over rows, memory and new tokens, with the statistics that the gate needs
    EntropyGate          statistics, retention score, victims
    StateTransition      new tokens take the victims' rows, victims are demoted or absorbed

Each has one definition, in `retentive_export.cache`; here it becomes a torch custom operator
(`torch.ops.retentivekv.*`) and, traced, an ONNX function body of standard operators.
"""

from retentive_export.ops.contract import DOMAIN, OPS, VERSION

__all__ = ["DOMAIN", "OPS", "VERSION"]
