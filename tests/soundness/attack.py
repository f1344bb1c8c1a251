"""The attack on one op packet in one dtype: correct evaluations that try to break its bounds.

First calls are drawn at random until enough result elements were judged, then Hypothesis searches
with the logarithm of the ratio of error to bound as its target.  Torch's own kernel is judged by
both bounds; an emulation in a chosen order (``evaluators``) by the proof, and by the contract where
its algorithm is one that the contract names.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import hypothesis
import numpy as np
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from sdc_guard.calls import BoundCall, without
from sdc_guard.ops import OpSpec
from tests.known_precision import LOW_PRECISION_SUMS
from tests.soundness.cases import LAYOUTS, Attack, Samples
from tests.soundness.evaluators import discover, emulations, has_emulations
from tests.soundness.judging import Score, references_of, scores
from tests.soundness.judging import score as score_of
from tests.soundness.values import Fill, drawn_fill, fills

LINE = 2048
"""Elements of a line of an elementwise call in most attacks."""
MOST_ELEMENTS = 300_000
"""Calls with larger operands are attacked rarely."""


@dataclass(slots=True)
class Worst:
    """The largest ratio of error to one bound, and where it came from."""

    ratio: float = 0.0
    place: str = ""

    def offer(self, ratio: float, place: str) -> None:
        if ratio > self.ratio:
            self.ratio, self.place = ratio, place


@dataclass(slots=True)
class Cell:
    """What the attacks on a packet in a dtype came to.  ``evaluations`` counts result elements
    judged, ``bounded`` those of them whose limit is above 0; ``emulated`` is part of both.
    ``flushed``: worst ratio while subnormals are flushed, where nothing is claimed.
    ``known``: a loss of precision of ``tests/known_precision.py`` breaks the contract here."""

    packet: str
    family: str
    dtype: str
    examples: int = 0
    calls: int = 0
    refused: int = 0
    evaluations: int = 0
    bounded: int = 0
    emulated: int = 0
    contract: Worst = field(default_factory=Worst)
    proof: Worst = field(default_factory=Worst)
    flushed: Worst = field(default_factory=Worst)
    known: bool = False
    broken: list[str] = field(default_factory=list)
    why_not: str = ""

    @property
    def tightness(self) -> float:
        """Contract over the worst legitimate error found; infinite where none was."""
        return 1 / self.contract.ratio if self.contract.ratio else math.inf


@contextmanager
def _machine(attack: Attack) -> Iterator[None]:
    """Threads as the attack has them."""
    before = torch.get_num_threads()
    if attack.threads != before:
        torch.set_num_threads(attack.threads)
    try:
        yield
    finally:
        if attack.threads != before:
            torch.set_num_threads(before)


class Attacker:
    """Attacks on one packet in one dtype; ``shrunk`` divides every limit, for tests of the attack
    itself."""

    def __init__(self, spec: OpSpec, dtype: torch.dtype, seed: int = 0, shrunk: float = 1.0
                 ) -> None:
        self.spec, self.dtype, self.shrunk = spec, dtype, shrunk
        self.samples = Samples(spec, dtype, seed)
        name = str(dtype).removeprefix("torch.")
        self.cell = Cell(spec.packet, spec.family, name)
        self.cell.known = spec.packet in LOW_PRECISION_SUMS and dtype.itemsize == 2
        self.rng = np.random.default_rng([seed, zlib.crc32(f"{spec.packet} {name}".encode())])
        discover()
        self.emulated = has_emulations(spec.packet)

    def run(self, attack: Attack) -> float:
        """Make one attack, count it; the worst ratio to a bound that the evaluation must keep."""
        with _machine(attack):
            return self._run(attack)

    def _run(self, attack: Attack) -> float:
        call = self.samples.call(attack)
        self.cell.calls += 1
        try:
            held = self._results(call, attack.flush)
        except (RuntimeError, IndexError, ValueError, NotImplementedError):
            self.cell.refused += 1  # the op does not take these values in this layout
            return 0.0
        name = call.form.name
        references = references_of(self.spec, call, held)
        worst = 0.0
        for found in scores(self.spec, call, held, references):
            place = f"{name}, kernel, {attack.told()}"
            if attack.flush:
                self.cell.flushed.offer(max(found.contract, found.proof), place)
                continue
            worst = max(worst, self._count(found, place, contract=True))
        if attack.flush or not self.emulated:
            return worst
        rng = np.random.default_rng(attack.seed)
        for emulation in emulations(call, held, rng):
            reference = references[emulation.output]
            if reference is None:
                continue
            got = torch.from_numpy(np.array(emulation.values, dtype=np.float64)).to(
                held[emulation.output].dtype).reshape(held[emulation.output].shape)
            found = score_of(got, emulation.output, reference)
            self.cell.emulated += found.judged
            place = f"{name}, {emulation.name}, {attack.told()}"
            worst = max(worst, self._count(found, place, contract=emulation.keeps_contract))
        return worst

    def _results(self, call: BoundCall, flush: bool) -> tuple[torch.Tensor, ...]:
        if flush:
            torch.set_flush_denormal(True)
        try:
            return without(call.run_identical(), self.spec.scratch)
        finally:
            if flush:
                torch.set_flush_denormal(False)

    def _count(self, found: Score, place: str, *, contract: bool) -> float:
        """Count a score; the ratio to the bound that this evaluation has to keep."""
        cell = self.cell
        cell.evaluations += found.judged
        cell.bounded += found.bounded
        proof, near = found.proof * self.shrunk, found.contract * self.shrunk
        cell.proof.offer(proof, place)
        worst = proof
        if contract:
            worst = max(worst, near)
            cell.contract.offer(near, place)
        allowed = proof <= 1 if cell.known or not contract else worst <= 1
        if not allowed and len(cell.broken) < 20:
            cell.broken.append(f"output {found.output}: proof {proof:.4g}, contract {near:.4g}; "
                               f"{place}")
        return worst

    def drawn(self, turn: int) -> Attack:
        """A random attack; samples take turns."""
        rng = self.rng
        number = int(rng.integers(1, 4))
        kept = rng.random() < 0.08
        made = tuple(None if kept else drawn_fill(rng) for _ in range(number))
        if rng.random() < 0.4:
            made = made[:1]
        layout = str(rng.choice(LAYOUTS)) if rng.random() < 0.4 else "sampled"
        return Attack(turn, made, (layout,), LINE if rng.random() < 0.7 else 0,
                      2 if rng.random() < 0.06 else 1, bool(rng.random() < 0.05),
                      int(rng.integers(2**32)))

    def vectorised(self, evaluations: int, min_calls: int, max_calls: int) -> None:
        """Random attacks until ``evaluations`` elements were judged in ``min_calls`` at least."""
        large = [sum(t.numel() for _, t in c.tensors()) > MOST_ELEMENTS
                 for c in self.samples.calls]
        turn = calls = 0
        while calls < max_calls and (self.cell.evaluations < evaluations or calls < min_calls):
            turn += 1
            if large[turn % len(large)] and turn % 16 >= len(large) and not all(large):
                continue
            calls += 1
            self.run(self.drawn(turn))

    def patterns(self) -> None:
        """Every bit pattern of a half format as each operand of an elementwise call."""
        if self.dtype.itemsize != 2 or self.spec.family != "pointwise":
            return
        for place, line in enumerate(self.samples.lines):
            if line:
                for turn in range(2):
                    made = (Fill(kind="every pattern", seed=turn),
                            Fill(kind="bit patterns", seed=turn))
                    self.run(Attack(place, made[::-1] if turn else made, (), 2**16, seed=turn))

    def searched(self, examples: int, seed: int) -> None:
        """Hypothesis, with the ratio as its target."""

        @hypothesis.seed(seed)
        @settings(max_examples=examples, deadline=None, database=None,
                  phases=(Phase.generate, Phase.target),
                  suppress_health_check=list(HealthCheck))
        @given(attacks(len(self.samples.calls)))
        def search(attack: Attack) -> None:
            self.cell.examples += 1
            ratio = self.run(attack)
            hypothesis.target(math.log2(min(max(ratio, 1e-9), 1e9)))

        search()


def attacks(num_samples: int) -> st.SearchStrategy[Attack]:
    """Attacks on any of the samples."""
    made = st.lists(fills(), min_size=1, max_size=3).map(tuple)
    return st.builds(Attack, st.integers(0, num_samples - 1), made,
                     st.sampled_from([(layout,) for layout in LAYOUTS]),
                     st.sampled_from([0, 256]), st.sampled_from([1, 1, 1, 1, 1, 1, 1, 2]),
                     st.just(False), st.integers(0, 2**32 - 1))


def attack_cell(
    spec: OpSpec, dtype: torch.dtype, *, examples: int, evaluations: int, min_calls: int = 24,
    max_calls: int = 800, seed: int = 0, shrunk: float = 1.0,
) -> Cell:
    """All attacks on one packet in one dtype."""
    attacker = Attacker(spec, dtype, seed, shrunk)
    cell = attacker.cell
    if not attacker.samples.calls:
        cell.why_not = "no samples in this dtype"
        return cell
    attacker.patterns()
    attacker.vectorised(evaluations, min_calls, max_calls)
    if examples:
        attacker.searched(examples, seed)
    if not cell.evaluations:
        cell.why_not = "no result is judged by a bound"
    elif not cell.bounded:
        cell.why_not = "exact: every limit is 0"
    return cell

