"""The records of the report document, version by version.

``schema_version`` is ``major.minor``.  A field is only ever added, with a default, which raises the
minor number: older documents then read as they are, and an older reader leaves out what it does not
know.  Anything else raises the major number and needs a step in ``reading.py``.
"""

from __future__ import annotations

from typing import Any

from msgspec import field

from sdc_guard.records import Coverage, Finding, Record, Verdict

SCHEMA_VERSION = "1.1"


class Location(Record, frozen=True, kw_only=True):
    """A line of the user's: ``file`` is relative to the report's root if it lies inside, with
    forward slashes.  ``is_users`` is false for a line of an installed package."""

    file: str
    line: int
    is_users: bool = True


class WrongElement(Record, frozen=True, kw_only=True):
    """One wrong element of a result: bits as ``0x...``, values as C's hexadecimal floats where the
    format is a floating one, the mask of bits that differ and how many they are."""

    index: tuple[int, ...]
    got: str
    expected: str
    got_hexfloat: str = ""
    expected_hexfloat: str = ""
    xor: str = ""
    popcount: int = 0


class Entry(Record, frozen=True, kw_only=True):
    """A finding in its place.

    ``id`` is its fingerprint, equal for the same divergence in another run; ``code`` its rule;
    ``word`` what the tool calls it; ``run`` the ``id`` of its :class:`Run`; ``time_s`` seconds
    since that run began; ``finding.repeats`` how many findings of this kind the entry stands for;
    ``test`` the test, or the hunt's oracle, that met it; ``unit`` the piece
    of hardware that computed it.  ``wrong`` of ``tried`` recomputations were wrong, where counted.
    ``cause``, where it is not empty, is what a baseline knows in place of ``id``: entries that one
    defect gives in a random search have it in common.

    A sweep says more: ``elements`` are the first wrong ones; ``contrast`` is what else was tried on
    this unit and what the other units did, a line each (``memory_patterns on core 1: clean (412
    checks)``); ``facts`` what was known of the unit and the moment (``seed``, ``temperature C``).
    """

    id: str
    code: str
    tool: str
    word: str
    verdict: Verdict
    run: str
    finding: Finding
    location: Location | None = None
    time_s: float = 0.0
    test: str = ""
    unit: str = ""
    wrong: int | None = None
    tried: int | None = None
    cause: str = ""
    elements: tuple[WrongElement, ...] = ()
    contrast: tuple[str, ...] = ()
    facts: dict[str, str] = field(default_factory=dict)


class Point(Record, frozen=True, kw_only=True):
    """A run at one moment: counts and seconds since it began, all of them running totals."""

    step: int
    time_s: float
    loss: float | None = None
    calls: int = 0
    calls_checked: int = 0
    overhead_s: float = 0.0
    findings: int = 0


class Module(Record, frozen=True, kw_only=True):
    """A module of the watched model: its qualified name ("" for the root) and its class."""

    name: str
    kind: str


class Run(Record, frozen=True, kw_only=True):
    """One process that was watched.  ``is_complete`` tells that it ended in order and that its log
    is whole; ``script`` is relative to the report's root if it lies inside; ``exception`` is what
    the guarded code raised; ``problems`` is what of its log could not be read."""

    id: str
    kind: str
    rank: int
    pid: int
    host: str
    start_utc: str
    source: str
    elapsed_s: float = 0.0
    is_complete: bool = False
    budget: str = ""
    seed: int | None = None
    script: str = ""
    exception: str = ""
    steps: int = 0
    steps_skipped: int = 0
    environment: dict[str, Any] = field(default_factory=dict)
    coverage: Coverage | None = None
    timeline: tuple[Point, ...] = ()
    modules: tuple[Module, ...] = ()
    problems: tuple[str, ...] = ()

    @property
    def process(self) -> str:
        """``host, rank 3``: the unit of this run's cells."""
        return f"{self.host}, rank {self.rank}"


class Cell(Record, frozen=True, kw_only=True):
    """One test on one unit: ``word`` is the tool's, ``verdict`` the table's, or ``clean``.

    A sweep says more: the test's ``family``, the ``oracle`` that the word rests on, which says what
    power the test had here (a test with a peer oracle and no peer has that of ``self``), and the
    work that was checked: seconds, bytes of operands and results, floating-point operations.
    """

    unit: str
    test: str
    word: str
    verdict: str
    checks: int = 0
    findings: int = 0
    reason: str = ""
    family: str = ""
    oracle: str = ""
    elapsed_s: float = 0.0
    num_bytes: int = 0
    flops: int = 0


class SweptUnit(Record, frozen=True, kw_only=True):
    """A piece of hardware that a sweep was about.

    ``id`` is the ``unit`` of its cells (``node-7, core 3``); ``kind`` is ``core``, ``gpu`` or
    ``host``; ``name`` is what it is called on its host (``core 3``, ``cuda:0``).  ``facts`` are
    ``host``; of a core ``model``, ``stepping``, ``microcode``, ``socket``, ``core_id``,
    ``siblings``, ``numa_node``; of a GPU ``model``, ``uuid``, ``pci``, ``serial``, ``capability``;
    one that cannot be read is left out.
    """

    id: str
    kind: str
    name: str
    facts: dict[str, str] = field(default_factory=dict)


class SweptTest(Record, frozen=True, kw_only=True):
    """A test as it declares itself: where its answers come from, the smallest unit that it may
    blame, and what a pass of ``dwell_s`` seconds proves and cannot prove."""

    name: str
    family: str
    oracles: tuple[str, ...] = ()
    blames: str = ""
    dtypes: tuple[str, ...] = ()
    proves: str = ""
    cannot_prove: str = ""
    dwell_s: float = 0.0


class SweptDigest(Record, frozen=True, kw_only=True):
    """What a unit computed where no exact answer is known, for its peers on this and on other
    hosts.  Digests are comparable where ``key`` is equal: it names all that may change the bits."""

    key: str
    unit: str
    digest: str
    test: str = ""


class SensorSample(Record, frozen=True, kw_only=True):
    """What a unit's sensors showed ``time_s`` seconds after the sweep began, each by its name with
    its unit (``temperature C``, ``clock MHz``, ``power W``)."""

    time_s: float
    unit: str
    readings: dict[str, float] = field(default_factory=dict)


class Sweep(Record, frozen=True, kw_only=True):
    """What is known of a sweep beside its cells and findings.

    ``seed`` and ``budget_s`` (seconds, for all units) are as asked; ``checks``, ``num_bytes`` and
    ``flops`` totals over all units.  ``canaries`` says by test whether its planted wrong bit was
    ``caught``, ``missed``, or ``none`` where no case could be made.  ``is_partial``: it was stopped
    or killed before its time; ``cursor`` says where the next short run goes on.
    """

    seed: int = 0
    budget_s: float = 0.0
    units: tuple[SweptUnit, ...] = ()
    tests: tuple[SweptTest, ...] = ()
    digests: tuple[SweptDigest, ...] = ()
    samples: tuple[SensorSample, ...] = ()
    checks: int = 0
    num_bytes: int = 0
    flops: int = 0
    canaries: dict[str, str] = field(default_factory=dict)
    is_partial: bool = False
    cursor: str = ""


class FleetShare(Record, frozen=True, kw_only=True):
    """How often something fails: ``failing`` of ``tested`` units, or of tests on a unit (``of``),
    for the host, model, unit or test (``by``) that is called ``name``.  ``low`` and ``high`` bound
    the rate with ``confidence``."""

    by: str
    name: str
    of: str
    failing: int
    tested: int
    low: float
    high: float
    confidence: float


class Outlier(Record, frozen=True, kw_only=True):
    """A unit that is not like the others, the worst first: tests of its that FAIL, those that are
    SUSPECT or AMBIGUOUS, and how many were tested; ``outvoted`` cases in which other hosts agree on
    other bits; ``reason`` of its worst test."""

    unit: str
    host: str
    model: str
    failing: int
    open: int
    tested: int
    outvoted: int = 0
    reason: str = ""


class Fleet(Record, frozen=True, kw_only=True):
    """Sweeps of several hosts together.

    ``hosts`` are those with a document; ``missing`` those that were expected and have none;
    ``damaged`` says by name why a document could not be read; ``votes`` counts the cases that at
    least two hosts computed and that have no exact answer; ``notes`` is what else is to be known.
    """

    hosts: tuple[str, ...]
    missing: tuple[str, ...] = ()
    damaged: dict[str, str] = field(default_factory=dict)
    votes: int = 0
    outliers: tuple[Outlier, ...] = ()
    shares: tuple[FleetShare, ...] = ()
    notes: tuple[str, ...] = ()


class Known(Record, frozen=True, kw_only=True):
    """A line of a baseline.  ``expires`` is a date (``2027-03-31``), or empty."""

    id: str
    verdict: str
    op: str
    where: str
    torch: str
    device: str
    reason: str = ""
    expires: str = ""


class Judgement(Record, frozen=True, kw_only=True):
    """What a report means for CI, under which policy and against which baseline.

    ``states`` maps each fingerprint to ``new``, ``known`` or ``expired``; ``worse`` are those that
    the baseline knows with a milder verdict, which excuses nothing.  Of the baseline's own lines,
    ``fixed`` were checked again and not found, ``stale`` can no longer match (expired, or for a
    torch that is not in use any more), ``carried`` are of devices or operators that this report
    does not cover.
    """

    exit_code: int
    status: str
    reasons: tuple[str, ...]
    fail_on: tuple[str, ...]
    policy: dict[str, str]
    coverage_floor: float | None = None
    baseline: str = ""
    states: dict[str, str] = field(default_factory=dict)
    worse: tuple[str, ...] = ()
    fixed: tuple[Known, ...] = ()
    stale: tuple[Known, ...] = ()
    carried: tuple[Known, ...] = ()
    environment_changes: tuple[str, ...] = ()


class Report(Record, frozen=True, kw_only=True):
    """The document.  ``cut`` counts, by name, what was left out of it to bound its size."""

    schema_version: str
    tool_version: str
    created_utc: str
    title: str
    sources: tuple[str, ...]
    runs: tuple[Run, ...] = ()
    findings: tuple[Entry, ...] = ()
    cells: tuple[Cell, ...] = ()
    problems: tuple[str, ...] = ()
    cut: dict[str, int] = field(default_factory=dict)
    judgement: Judgement | None = None
    sweep: Sweep | None = None
    fleet: Fleet | None = None

    @property
    def coverages(self) -> tuple[Coverage, ...]:
        return tuple(run.coverage for run in self.runs if run.coverage is not None)

    @property
    def calls(self) -> int:
        return sum(c.calls for c in self.coverages)

    @property
    def calls_checked(self) -> int:
        return sum(c.calls_checked for c in self.coverages)

    @property
    def call_share(self) -> float:
        """Share of all calls that were checked.  Steps that were not watched, to keep a budget, are
        taken to have as many calls as the others: they are seen nowhere."""
        return self.call_percent / 100

    @property
    def call_percent(self) -> float:
        """That share in percent, rounded once: 29 of 100 calls are not below a floor of 29."""
        if any(c.calls and not c.watched_share for c in self.coverages):
            return 0.0
        calls = sum(c.calls / c.watched_share for c in self.coverages if c.calls)
        return 100 * self.calls_checked / calls if calls else 0.0

    @property
    def steps_unwatched(self) -> int:
        return sum(c.steps_unwatched for c in self.coverages)

    @property
    def flops(self) -> int:
        return sum(c.flops for c in self.coverages)

    @property
    def flops_checked(self) -> int:
        return sum(c.flops_checked for c in self.coverages)

    @property
    def num_by_verdict(self) -> dict[str, int]:
        """Findings by verdict, repeats counted, most severe first; verdicts without one left
        out."""
        counts = dict.fromkeys((v.value for v in Verdict), 0)
        for entry in self.findings:
            counts[entry.verdict.value] += entry.finding.repeats
        return {word: count for word, count in counts.items() if count}
