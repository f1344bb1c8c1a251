"""One way on one mutant, in a process of its own; prints the outcome as one line of JSON."""

from __future__ import annotations

import argparse
import sys
import warnings
from pathlib import Path

import msgspec

from tests.hunt_power import hunting
from tests.hunt_power.mutants import MUTANTS
from tests.hunt_power.rivals import catalogue, random_calls, survey

METHODS = ("hunt", "catalogue", "random", "survey")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("mutant", choices=MUTANTS, metavar="MUTANT")
    parser.add_argument("method", choices=METHODS)
    parser.add_argument("--seconds", type=float, default=120)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--cache", type=Path, default=Path("build/hunt-power"))
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    mutant = MUTANTS[options.mutant]
    if options.method == "hunt":
        outcome = hunting.hunt(mutant, options.seconds, options.seed, options.cache)
    else:
        way = {"catalogue": catalogue, "random": random_calls, "survey": survey}[options.method]
        outcome = way.search(mutant, options.seconds, options.seed)
    sys.stdout.write(msgspec.json.encode(outcome).decode() + "\n")


if __name__ == "__main__":
    main()
