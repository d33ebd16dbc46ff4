"""Compare the seconds that `check=true` estimates with those that the runs take.

    python scripts/check_estimates.py [--cifar10 FOLDER] [--rounds 20] [--repeats 1]

Each federation is checked and then run by the real command, in a folder that is removed afterwards. It prints the seconds of
the check beyond the imports of torch and Lightning, the estimate, the truth, and their ratio. The truth is the time from the
run's first file to its summary. FOLDER has CIFAR-10 as train/CLASS/*.jpg and test/CLASS/*.jpg. Without it the tutorial is
left out.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

from fedlit.runs.layout import COMMAND, SUMMARY

CHECK = """
import json, sys, time
import lightning, torch, torchmetrics, hydra
from fedlit.experiment import runner
seconds = []
estimate, begin = runner.estimate_run, time.perf_counter()
def record(run):
    figures = estimate(run)
    seconds.append(figures["seconds"])
    return figures
runner.estimate_run = record
from fedlit.cli.train import main
sys.argv[0] = "fedlit"
main()
print(json.dumps([time.perf_counter() - begin, seconds[0]]))
"""


def run(folder, *arguments):
    """Run a Python command in a folder, and return its last line of output."""
    done = subprocess.run([sys.executable, *arguments], cwd=folder, check=True, capture_output=True, text=True)
    return done.stdout.rstrip().rpartition("\n")[2]


def compare(name, overrides):
    """Print the estimate and the truth of a federation."""
    with tempfile.TemporaryDirectory() as folder:
        check_s, estimate = json.loads(run(folder, "-c", CHECK, *overrides, "check=true", "hydra.run.dir=check"))
        run(folder, "-m", "fedlit.train", *overrides, "hydra.run.dir=run")
        first, last = (Path(folder, "run", file).stat().st_mtime for file in (COMMAND, SUMMARY))
        truth = last - first
    print(f"{name:20} {check_s:11.1f} {estimate:12.1f} {truth:9.1f} {estimate / truth:8.2f}", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cifar10", type=Path, help="folder of CIFAR-10 as images")
    parser.add_argument("--rounds", type=int, default=20, help="rounds of the tutorial and of the synthetic population")
    parser.add_argument("--repeats", type=int, default=1, help="repeats, one federation after the other")
    options = parser.parse_args()
    rounds = f"schedule.rounds={options.rounds}"
    synthetic = ["data=synthetic", "data.clients=1000", "partition=natural", "model=logistic", rounds]
    federations = {"default": [], "synthetic": synthetic}
    if options.cifar10 is not None:
        root = f"data.root='{options.cifar10.resolve()}'"
        federations["tutorial"] = ["experiment=tutorial", "data=image_folder", root, rounds]
    print(f"{'federation':20} {'check (s)':>11} {'estimate (s)':>12} {'truth (s)':>9} {'ratio':>8}", flush=True)
    for _ in range(options.repeats):
        for name, overrides in federations.items():
            compare(name, overrides)


if __name__ == "__main__":
    main()
