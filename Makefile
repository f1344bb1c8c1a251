# Every target sets up what it needs: `make demo` works on a machine with Python and make alone.
#
#   PYTHON=python3.12      interpreter for the virtual environment (3.11 or newer)
#   VENV=path              where that environment lives
#   PIP_ARGS="..."         more arguments for pip, for example --find-links DIR
#   PYTEST_ARGS="..."      more arguments for pytest, for example -k reductions
#   DEMO_ARGS, BENCH_ARGS  more arguments for `sdc-guard demo` and `sdc-guard bench`
#   NO_INSTALL=1           test-gpu, bench-gpu: install nothing, run this checkout with $(PYTHON)
#   LIMIT_S=420, OUT=path  bench-gpu: seconds that it may take, folder for its results
#   HUNT_ARGS, SWEEP_ARGS  more arguments for `sdc-guard hunt` and `sdc-guard sweep`
#   CATALOGUE_ARGS, MODELS_ARGS, SOUNDNESS_ARGS, THIRD_PARTY_ARGS, HUNT_POWER_ARGS, SWEEP_POWER_ARGS, SWEEP_CLEAN_ARGS  more arguments for test-catalogue and so on

PYTHON ?= python3
VENV ?= .venv
PIP_ARGS ?=
PYTEST_ARGS ?=
DEMO_ARGS ?=
CATALOGUE_ARGS ?=
MODELS_ARGS ?=
SOUNDNESS_ARGS ?=
HUNT_POWER_ARGS ?=
SWEEP_ARGS ?=
SWEEP_POWER_ARGS ?=
SWEEP_CLEAN_ARGS ?=
BENCH_ARGS ?=
HUNT_ARGS ?=
THIRD_PARTY_ARGS ?=
# A venv of its own: what that program needs is no business of ours.
THIRD_PARTY := build/third-party
NO_INSTALL ?=
LIMIT_S ?= 420
OUT ?= build/bench-gpu

BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
# One worker per core, one file per worker at a time: module fixtures are built once.
PYTEST := $(BIN)/python -m pytest --numprocesses logical --maxprocesses 4 --dist loadfile

GPU_PYTHON := $(if $(NO_INSTALL),PYTHONPATH=.:kernels$${PYTHONPATH:+:$$PYTHONPATH} $(PYTHON),$(BIN)/python)
GPU_PYTEST := $(GPU_PYTHON) -m pytest --numprocesses logical --maxprocesses 8 --dist loadfile

# The schema of JUnit's files, as pytest's own tests have it: in its source distribution alone.
JUNIT_XSD := build/schemas/junit-10.xsd
JUNIT_SDIST := pytest-8.2.0
# The schema of OCP Test & Validation's lines; without it their tests ask OCP's library alone.
OCP_SCHEMA := build/schemas/ocp
OCP_SOURCE := https://github.com/opencomputeproject/ocp-diag-core
OCP_COMMIT := 8fae3f573a0aeb07d4fd78855f0ba2e464a8a2ad

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help install demo test test-slow test-catalogue test-models test-soundness test-hunt-power test-sweep-power test-sweep-clean test-integrations test-third-party test-gpu test-browser lint types bench bench-gpu report hunt sweep clean

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1|\2/p' Makefile | awk -F'|' '{printf "%-18s %s\n", $$1, $$2}'

install: $(INSTALLED) ## make the virtual environment and install the package into it, once

$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "sdc-guard needs Python 3.11 or newer; '$(PYTHON)' is: $$($(PYTHON) --version 2>&1)." >&2; \
	  echo "Name another one: make PYTHON=python3.12 ..." >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV) || { \
	  echo "'$(PYTHON) -m venv' failed; on Debian and Ubuntu install the package python3-venv." >&2; exit 1; }
	@echo "Installing torch and the rest into $(VENV) (minutes, once) ..."
	@$(BIN)/python -m pip install --quiet --quiet --progress-bar off --disable-pip-version-check \
	  $(PIP_ARGS) -c constraints.txt -e ".[dev]"
	@touch $@

demo: install ## train a small GPT three times and catch a broken torch.sum, about two minutes
	$(BIN)/sdc-guard demo $(DEMO_ARGS)

test: install $(JUNIT_XSD) ## the fast tests, at most eight minutes on two cores
	$(PYTEST) -m "not slow" $(PYTEST_ARGS)

$(JUNIT_XSD): | $(INSTALLED)
	@mkdir -p $(@D)/download
	@$(BIN)/python -m pip download --quiet --quiet --progress-bar off --disable-pip-version-check \
	  $(PIP_ARGS) --no-deps --no-binary :all: --dest $(@D)/download $(subst -,==,$(JUNIT_SDIST))
	@tar -xzOf $(@D)/download/$(JUNIT_SDIST).tar.gz \
	  $(JUNIT_SDIST)/testing/example_scripts/junit-10.xsd > $@
	@rm -r $(@D)/download

$(OCP_SCHEMA):
	@rm -rf $@.part && mkdir -p $@.part
	@curl --silent --show-error --fail --location $(OCP_SOURCE)/archive/$(OCP_COMMIT).tar.gz | \
	  tar -xz -C $@.part --strip-components=3 ocp-diag-core-$(OCP_COMMIT)/json_spec/output
	@mv $@.part $@

test-slow: install ## the long tests and the rest of long lists of cases
	$(PYTEST) -m slow $(PYTEST_ARGS)

test-catalogue: install ## torch's operator catalogue under the guard: about 15 minutes
	$(BIN)/python -m tests.catalogue.run $(CATALOGUE_ARGS)
	$(BIN)/python -m tests.catalogue.run --flips 2 $(CATALOGUE_ARGS)
	$(BIN)/python -m tests.catalogue.run --repeated 1 $(CATALOGUE_ARGS)

test-soundness: install ## correct evaluations try to break every bound: about 30 minutes
	$(BIN)/python -m tests.soundness.run $(SOUNDNESS_ARGS)

# Rivals' packages are no dependency of ours, so they lie in a folder of their own.
HUNT_POWER := build/hunt-power

test-hunt-power: $(HUNT_POWER)/ulpwise/.installed ## planted kernel bugs: the hunt and its rivals, reports/hunt/power.md: two hours, goes on where it was ended
	$(BIN)/python -m tests.hunt_power.run --throughput --ulpwise $(<D) --work $(HUNT_POWER) $(HUNT_POWER_ARGS)

$(HUNT_POWER)/ulpwise/.installed: | $(INSTALLED)
	@$(BIN)/python -m pip install --quiet --quiet --progress-bar off --disable-pip-version-check \
	  $(PIP_ARGS) --no-deps --target $(@D) ulpwise==0.3.4
	@touch $@

test-sweep-power: install ## whole sweeps of a machine with one faulty core, reports/sweep/whole_program.md: half an hour of a quiet machine, goes on where it was ended
	$(BIN)/python -m tests.sweep_power.run $(SWEEP_POWER_ARGS)

test-sweep-clean: install ## sweeps of a sound machine, quiet and busy, threads and ISA caps varied, reports/sweep/clean.md: half an hour
	$(BIN)/python -m tests.sweep_clean.run --minutes 30 --out reports/sweep $(SWEEP_CLEAN_ARGS)

test-models: $(VENV)/.models ## 20 real architectures, tiny, with and without the guard: minutes
	$(BIN)/python -m tests.models.run $(MODELS_ARGS)

$(VENV)/.models: $(INSTALLED)
	@$(BIN)/python -m pip install --quiet --quiet --progress-bar off --disable-pip-version-check \
	  $(PIP_ARGS) -c constraints.txt -e ".[models]"
	@touch $@

test-integrations: $(VENV)/.integrations ## the guard in transformers' Trainer: minutes
	$(BIN)/python -m pytest tests/unit/integrations $(PYTEST_ARGS)

$(VENV)/.integrations: $(INSTALLED)
	@$(BIN)/python -m pip install --quiet --quiet --progress-bar off --disable-pip-version-check \
	  $(PIP_ARGS) -c constraints.txt -e ".[integrations]"
	@touch $@

test-third-party: $(THIRD_PARTY)/.installed ## somebody else's training program under `sdc-guard run`: ten minutes
	$(THIRD_PARTY)/bin/python -m tests.third_party.run $(THIRD_PARTY_ARGS)

$(THIRD_PARTY)/.installed: pyproject.toml constraints.txt
	@$(PYTHON) -m venv $(THIRD_PARTY)
	@$(THIRD_PARTY)/bin/python -m pip install --quiet --quiet --progress-bar off \
	  --disable-pip-version-check $(PIP_ARGS) -c constraints.txt -e . pykeen==1.11.1
	@touch $@

test-gpu: $(if $(NO_INSTALL),,install) ## the kernels on a CUDA device and in the interpreter; fails without a device
	@$(GPU_PYTHON) -c 'import sys, torch; sys.exit(not torch.cuda.is_available())' || { \
	  echo "torch sees no CUDA device here, so the GPU tests cannot run." >&2; exit 1; }
	$(GPU_PYTEST) -m gpu $(PYTEST_ARGS)
	TRITON_INTERPRET=1 $(GPU_PYTEST) tests/kernels -m "not gpu and not slow" $(PYTEST_ARGS)

REPORT := build/report
BASELINE := reports/baseline/known.txt

report: install ## our own trainings under guard, reported in build/report against the committed baseline: a minute
	rm -rf $(REPORT)
	$(BIN)/python -m pytest tests/own/trainings.py --sdc-guard --sdc-out $(REPORT) \
	  --sdc-baseline $(BASELINE) --sdc-fail-on new --sdc-report json $(PYTEST_ARGS)
	$(BIN)/sdc-guard report $(REPORT) --baseline $(BASELINE) --fail-on new --coverage-floor 95 \
	  --html --json --junit --sarif --markdown --prom $(if $(GITHUB_ACTIONS),--github)

HUNT := build/hunt
KNOWN_HUNT := reports/hunt/known.txt

hunt: install ## search all operators for wrong numbers, five minutes, against the committed baseline; report in build/hunt
	$(BIN)/sdc-guard hunt --minutes 5 --seed 0 --out $(HUNT) --baseline $(KNOWN_HUNT) \
	  --fail-on new --policy inconclusive=fail $(HUNT_ARGS)

SWEEP := build/sweep

sweep: install ## test this machine's cores and GPUs against known answers, 30 seconds; report in build/sweep
	$(BIN)/sdc-guard sweep --quick --out $(SWEEP) --html $(SWEEP)/report.html $(SWEEP_ARGS)

test-browser: $(VENV)/.browser ## the report's page in Chromium: filters, keys, copies, accessibility; fails without one
	@command -v chromium chromium-browser google-chrome google-chrome-stable >/dev/null || test -n "$$CHROMIUM" || { \
	  if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	    echo "No Chromium here: installing Debian's package chromium ..." >&2; \
	    apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends chromium >/dev/null; \
	  else \
	    echo "No Chromium on PATH. Install your system's package (Debian: apt-get install chromium)," >&2; \
	    echo "or name a Chromium or Chrome: CHROMIUM=/path/to/chrome make test-browser" >&2; exit 1; \
	  fi; }
	REQUIRE_BROWSER=1 $(BIN)/python -m pytest tests/browser $(PYTEST_ARGS)

$(VENV)/.browser: $(INSTALLED)
	@$(BIN)/python -m pip install --quiet --quiet --progress-bar off --disable-pip-version-check \
	  $(PIP_ARGS) -c constraints.txt -e ".[browser]"
	@touch $@

lint: install ## ruff
	$(BIN)/ruff check .

types: install ## mypy --strict
	$(BIN)/mypy

bench: $(VENV)/.bench ## the same faults for every detector, small form: five minutes, in build/bench
	$(BIN)/sdc-guard bench --quick --out build/bench $(BENCH_ARGS)

$(VENV)/.bench: $(INSTALLED)
	@$(BIN)/python -m pip install --quiet --quiet --progress-bar off --disable-pip-version-check \
	  $(PIP_ARGS) -c constraints.txt -e ".[bench]"
	@touch $@

bench-gpu: $(if $(NO_INSTALL),,$(VENV)/.bench) ## what checks by kernels cost on a CUDA device: seven minutes, in build/bench-gpu
	$(GPU_PYTHON) -c 'from sdc_guard.cli.main import main; main()' \
	  bench kernels --device cuda --limit-s $(LIMIT_S) --out $(OUT) $(BENCH_ARGS)

clean: ## remove the virtual environment and all caches
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis build dist
	find sdc_guard kernels tests -name __pycache__ -type d -prune -exec rm -rf {} +
