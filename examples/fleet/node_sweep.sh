#!/bin/sh
# node_sweep.sh [SECONDS]: sweep this node once and say in one line what came of it.
#
# health_check.sh, prolog.sh and sdc_guard.sh call it.  Install it beside them, for example in
# /usr/local/lib/sdc-guard.
#
# Exit code: 0 PASS, 1 FAIL, 3 SUSPECT or stopped early, 2 anything else.  1 means that a report of
# this very sweep names a unit that failed: a Python that cannot start, or a folder that is not
# mounted, ends in code 1 as well, and must not take a node away.
#
# stdout: one line of at most 80 characters.  stderr: what sdc-guard says on its own.
set -u
PATH=${PATH:-/usr/local/bin:/usr/bin:/bin}
: "${SWEEP_PROGRAM:=/opt/sdc-guard/bin/sdc-guard}"   # the program
: "${SWEEP_DIR:=/var/lib/sdc-guard}"                 # history, cursor and documents, on a local disk
: "${SWEEP_KEEP_DAYS:=90}"                           # how long documents that are no PASS are kept
: "${SWEEP_GRACE_S:=8}"                              # beyond SECONDS, before it is told to end
: "${SWEEP_ARGS:=}"                                  # more options, such as --tests F1,F2 --cores 0-7
seconds=${1:-40}

say() { printf '%.80s\n' "$1"; }

last=$SWEEP_DIR/last
mkdir -p "$last" "$SWEEP_DIR/kept" || { say "UNKNOWN: cannot write $SWEEP_DIR"; exit 2; }

# One sweep at a time: two on the same cores would only slow each other.  The lock is free again
# when its holder ends, however it ends.
exec 9>"$SWEEP_DIR/lock" || { say "UNKNOWN: cannot write $SWEEP_DIR/lock"; exit 2; }
flock -n 9 || { say "UNKNOWN: another sweep runs on this node"; exit 2; }

# What an earlier sweep left must not be taken for an answer of this one.
rm -f "$last/sweep.json" "$last/sdc_guard.prom"

# --rendezvous none: under a launcher's variables, too, this node is swept alone.  SIGTERM ends a
# sweep in order, with a report; the cursor in $SWEEP_DIR/state lets the next one go on there.
# The lock is not for the sweep's own children (9>&-); --foreground keeps it in the process group
# that slurmd or node-problem-detector kills.
# shellcheck disable=SC2086 # SWEEP_ARGS are several words
timeout --foreground --preserve-status -k 4 "$((seconds + SWEEP_GRACE_S))" \
  "$SWEEP_PROGRAM" sweep --seconds "$seconds" --quiet --rendezvous none \
  --state "$SWEEP_DIR/state" --out "$last" --prom "$last/sdc_guard.prom" \
  $SWEEP_ARGS >"$last/report.txt" 9>&-
code=$?

# "core 1 exact_product" of the first unit and test that has this word.
first() {
  sed -n "s/^sdc_guard_sweep_test_result{.*unit=\"\\([^\"]*\\)\".*test=\"\\([^\"]*\\)\".*word=\"$1\"} 1\$/\\1 \\2/p" \
    "$last/sdc_guard.prom" 2>/dev/null | head -n 1
}

if [ "$code" -ne 0 ] && [ -s "$last/sweep.json" ]; then
  cp "$last/sweep.json" "$SWEEP_DIR/kept/$(date -u +%Y%m%dT%H%M%SZ)-exit-$code.json"
  find "$SWEEP_DIR/kept" -name '*.json' -mtime "+$SWEEP_KEEP_DAYS" -exec rm -f {} +
fi

case $code in
  0) say "PASS"; exit 0 ;;
  1) what=$(first FAIL)
     if [ -n "$what" ]; then say "FAIL: $what"; exit 1; fi
     say "UNKNOWN: exit code 1 without a report that names a unit"; exit 2 ;;
  3) what=$(first SUSPECT)
     say "SUSPECT: ${what:-stopped early, or ambiguous}"; exit 3 ;;
  4) say "UNKNOWN: a test of sdc-guard itself failed (exit code 4)"; exit 2 ;;
  5) say "UNKNOWN: nothing was verified (exit code 5)"; exit 2 ;;
  137 | 143) say "UNKNOWN: the sweep did not end in time"; exit 2 ;;
  126 | 127) say "UNKNOWN: $SWEEP_PROGRAM cannot be run"; exit 2 ;;
  *) say "UNKNOWN: exit code $code"; exit 2 ;;
esac
