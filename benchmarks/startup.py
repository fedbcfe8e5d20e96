"""How long it takes until something happens: importing the library, and the commands that only print.

    python benchmarks/startup.py [--times 10]

Each is a fresh process, once to warm the disk's cache and then so many times; the median, least and most seconds. Exits
with 1 if `import scfm_lib` loads torch, takes 0.3 s or more, or `scfm --help` takes 0.5 s or more.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time

CODE = {
    "python": ["-c", ""],  # the interpreter alone, for comparison
    "import scfm_lib": ["-c", "import scfm_lib"],
    "scfm --help": ["-m", "scfm_lib", "--help"],
    "scfm config minimal": ["-m", "scfm_lib", "config", "minimal"],
}
LIMITS = {"import scfm_lib": 0.3, "scfm --help": 0.5}  # seconds


def seconds(arguments: list[str]) -> float:
    started = time.perf_counter()
    subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--times", type=int, default=10)
    times = parser.parse_args().times
    told = subprocess.check_output(
        [sys.executable, "-c", "import sys, scfm_lib; print('torch' in sys.modules)"], text=True
    )
    good = told.strip() == "False"
    for name, arguments in CODE.items():
        seconds(arguments)
        found = [seconds(arguments) for _ in range(times)]
        median = statistics.median(found)
        row = {"what": name, "median": round(median, 3), "least": round(min(found), 3), "most": round(max(found), 3)}
        print(json.dumps(row), flush=True)
        good &= median < LIMITS.get(name, float("inf"))
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()
