"""Kill a command with SIGKILL at random moments, go on, and compare every byte with an undisturbed run's.

python scripts/kill_and_resume.py --kills 20 -- build reference-vlm --target jetson-orin --archive -o OUT
python scripts/kill_and_resume.py --kills 20 -- finish BUNDLE --target cpu -o OUT

The arguments behind `--` go to retentive-export; OUT stands for a directory of the script's. Moments are spread over
the time that an undisturbed run takes. A run that is killed is started again and may be killed again; when one comes
through, its files are compared, and the next begins afresh. Prints a line per run.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

RUN = (sys.executable, "-m", "retentive_export")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("command", nargs="+", help="of retentive-export, with OUT for the output")
    options = parser.parse_args()
    moments = random.Random(options.seed)
    with tempfile.TemporaryDirectory(prefix="kill-and-resume-") as scratch:
        root = Path(scratch)
        expected, seconds = undisturbed(root, options.command)
        print(f"undisturbed: {seconds:.1f} s, {len(expected)} files", flush=True)
        kills = outputs = wrong = 0
        while kills < options.kills:
            outputs += 1
            place = root / f"output-{outputs}"
            place.mkdir()
            while kills < options.kills and killed(place, options.command, moments.uniform(0, seconds)):
                kills += 1
            done = json.loads(run(place, options.command))
            same = contents(place) == expected
            wrong += not same
            words = "same bytes" if same else f"OTHER BYTES: {sorted(contents(place).items() ^ expected.items())[:4]}"
            print(f"last run: ran {done['ran']}, reused {done['reused']}: {words}", flush=True)
    print(f"{kills} kills; {outputs - wrong} of {outputs} outputs have the same bytes")
    sys.exit(1 if wrong else 0)


def undisturbed(root: Path, command: list[str]) -> tuple[dict[str, str], float]:
    """Files of a run, and how long it takes where everything that is kept beyond a run is there already."""
    run(root / "first", command)
    started = time.monotonic()
    run(root / "second", command)
    seconds = time.monotonic() - started
    expected = contents(root / "second")
    if contents(root / "first") != expected:
        sys.exit("two undisturbed runs differ: there is nothing to compare with")
    return expected, seconds


def killed(place: Path, command: list[str], moment: float) -> bool:
    """Kill a run after `moment` seconds; whether it was still running."""
    child = subprocess.Popen(arguments(place, command), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        child.wait(timeout=moment)
    except subprocess.TimeoutExpired:
        child.kill()
    ended = child.wait() < 0
    left = sorted(path.name for path in place.iterdir())
    print(f"{moment:7.2f} s: {'killed' if ended else 'had ended'}; left {left}", flush=True)
    return ended


def run(place: Path, command: list[str]) -> str:
    place.mkdir(exist_ok=True)
    return subprocess.run(arguments(place, command), check=True, capture_output=True, text=True).stdout


def arguments(place: Path, command: list[str]) -> list[str]:
    return [*RUN, *(str(place / "out") if part == "OUT" else part for part in command), "--json"]


def contents(place: Path) -> dict[str, str]:
    files = (path for path in place.rglob("*") if path.is_file())
    return {str(path.relative_to(place)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


if __name__ == "__main__":
    main()
