"""Compile the plugin library for a target, as `build --target TARGET` does for a bundle, and say where it is.

python scripts/build_target_plugins.py jetson-orin

It is kept below plugins/build/targets/ by the hash of sources and compilers, so that bundles and tests find it there.
"""

from __future__ import annotations

import argparse

from retentive_export.bundle.compile import compile_library
from retentive_export.bundle.toolchain import find_toolkits, plan_compilations
from retentive_export.bundle.wheel import checkout
from retentive_export.spec.targets import target


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("target", help="its name, such as jetson-orin")
    chosen = target(parser.parse_args().target)
    plugins = checkout() / "plugins"
    for plan in plan_compilations(chosen, plugins, find_toolkits()):
        stacks = ", ".join(plan.stacks) or chosen.name
        if plan.toolkit is None:
            print(f"{stacks}: not compiled: {plan.why}")
        else:
            made = compile_library(plan, plugins, plugins / "build" / "targets", lambda line: print(line, end="\r"))
            print(f"{stacks}: {made}")


if __name__ == "__main__":
    main()
