"""Break the code in many small ways, and print what no test notices.

    pip install -e '.[mutants]'
    python scripts/mutants.py [--mutations 300] [--seed 0] [--only server/checkpoint]

Cosmic Ray makes the mutations: other operators, constants, conditions and loops. `DeleteStatement` leaves out a call or an
error. Each mutation is one change to a copy of the checkout, and then the tests that belong to its package run. A line whose
mutation survives may be wrong without a red test: either a test is missing, or the change makes no difference.
A few hundred mutations take hours. The exit status is 1 if one survived.
"""

import argparse
import os
import random
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from cosmic_ray import plugins
from cosmic_ray.commands import init
from cosmic_ray.mutating import mutate_and_test
from cosmic_ray.operators.operator import Example, Operator
from cosmic_ray.work_db import WorkDB, use_db
from cosmic_ray.work_item import TestOutcome
from parso.python.tree import Keyword

ROOT = Path(__file__).resolve().parent.parent

TESTS = {
    "core": ["tests/core"],
    "aggregation": ["tests/aggregation", "tests/server/test_rounds.py"],
    "executors": ["tests/executors"],
    "server/checkpoint": ["tests/server/checkpoint", "tests/cli/test_resume.py"],
    "server/sampling": ["tests/server/sampling"],
    "server": ["tests/server", "tests/test_fault_matrix.py"],
}
"""The tests that belong to a package; a file belongs to the first package that holds it."""

EQUIVALENT = ("core/ReplaceBinaryOperator_BitOr_",)
"""Mutations of `|`, which is mostly in annotations."""


class DeleteStatement(Operator):
    """Cosmic Ray's operator that replaces a call, `raise` or `del` statement by `pass`."""

    def mutation_positions(self, node):
        if node.type == "simple_stmt" and node.children[0].type in ("atom_expr", "raise_stmt", "del_stmt"):
            yield node.start_pos, node.end_pos

    def mutate(self, node, index):
        first = node.get_first_leaf()
        node.children[0] = Keyword("pass", first.start_pos, first.prefix)
        return node

    @classmethod
    def examples(cls):
        return (Example("sync(file)\n", "pass\n"), Example("raise ValueError\n", "pass\n"))


plugins.OPERATOR_PROVIDERS["fedlit"] = {"DeleteStatement": DeleteStatement}


def copy_checkout(folder):
    """Copy the files that Git tracks, as they are now."""
    names = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    for name in filter(None, names.split("\0")):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)


def draw_mutations(files, count, seed):
    """Return `count` mutations of the files, drawn at random, in the order of the files."""
    with (
        tempfile.TemporaryDirectory() as folder,
        use_db(str(Path(folder, "all.sqlite")), WorkDB.Mode.create) as database,
    ):
        init(files, database, {})
        mutations = [item.mutations[0] for item in database.work_items]
    mutations = [mutation for mutation in mutations if not mutation.operator_name.startswith(EQUIVALENT)]
    mutations.sort(key=lambda mutation: (str(mutation.module_path), mutation.operator_name, mutation.occurrence))
    drawn = random.Random(seed).sample(mutations, min(count, len(mutations)))
    return sorted(drawn, key=lambda mutation: (str(mutation.module_path), mutation.start_pos))


def package_of(path):
    """Return the package of `TESTS` that holds a file."""
    inner = path.relative_to("fedlit").as_posix()
    return next(package for package in TESTS if inner.startswith(f"{package}/"))


def measure_baseline(command):
    """Return the seconds of a test command; exit if the tests fail without a mutation."""
    begin = time.perf_counter()
    done = subprocess.run(shlex.split(command), check=False, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"the tests fail without a mutation: {command}\n{done.stdout[-3000:]}")
    return time.perf_counter() - begin


def run_mutations(mutations):
    """Run the tests for each mutation, print what survives, and return the number of each outcome."""
    commands, limits, outcomes = {}, {}, Counter()
    for number, mutation in enumerate(mutations, 1):
        package = package_of(Path(mutation.module_path))
        if package not in commands:
            commands[package] = shlex.join([sys.executable, "-m", "pytest", "-x", "-q", "-n", "0", *TESTS[package]])
            limits[package] = 60 + 3 * measure_baseline(commands[package])
        result = mutate_and_test([mutation], commands[package], limits[package])
        outcomes[result.test_outcome] += 1
        print(
            f"{number}/{len(mutations)} {mutation.module_path}:{mutation.start_pos[0]} {result.test_outcome.value}",
            flush=True,
        )
        if result.test_outcome is not TestOutcome.KILLED:
            print(result.diff or result.output, flush=True)
    return outcomes


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mutations", type=int, default=300, help="number of mutations")
    parser.add_argument("--seed", type=int, default=0, help="seed of the draw")
    parser.add_argument("--only", nargs="*", default=list(TESTS), choices=TESTS, help="packages to mutate")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="fedlit-mutants-") as folder:
        copy_checkout(Path(folder))
        os.chdir(folder)
        os.environ["PYTHONPATH"] = folder
        files = [
            path
            for path in sorted(Path("fedlit").rglob("*.py"))
            if path.relative_to("fedlit").parts[0] in {package.split("/")[0] for package in TESTS}
            and package_of(path) in options.only
        ]
        outcomes = run_mutations(draw_mutations(files, options.mutations, options.seed))
    print(", ".join(f"{count} {outcome.value}" for outcome, count in outcomes.items()))
    sys.exit(outcomes[TestOutcome.KILLED] != outcomes.total())


if __name__ == "__main__":
    main()
