"""What is measured, one runtime a file. A file imports its runtime when its arm is opened, never before.

The files of peers import nothing of this package but `base`: they run under a peer's own interpreter.
"""
