# make run    the whole pipeline on this machine          make run ARGS='--port 9000'
# make test   every test, and the coverage                make test ARGS='-k journal' COVERAGE=
# make check  lint, types, unit and contract tests, in under a minute
# make newest every test, with the newest versions of the packages that Milepost is closest to: these may break it
# make faults every fault and one table, in 40 minutes    make faults ARGS='--n 300 --only bridge'
# make model  the exhaustive search over the scripts, whole
# make simulate  two bridges on a virtual clock, 3,000 seeds in about an hour   make simulate ARGS='--seed 17'
# make mutants  change each call, condition and constant of the scripts, and see which test fails; up to an hour
# make bench  against the alternatives, and one table     make bench ARGS='--only drain --repeat 5'
# make fuzz   over 100,000 bad inputs, in ten minutes      make fuzz ARGS='--n 500 --only gateway'
# make pictures  docs/pictures anew, from the page in a real browser
# make cluster  kind, with Knative                        make dev   skaffold dev: the pipeline on it
# make manifests  knative/manifests anew, from the chart
# make documents  docs/reference.md anew, from the code
# make setup  the environment alone
# make lock   the lock files anew, from pyproject.toml
#
# Another Python has an environment of its own:           make test PYTHON=python3.13 VENV=.venv-3.13

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet
ARGS ?=
# A process that compiles our modules each time it starts takes longer.
export PYTHONDONTWRITEBYTECODE =
# In the order of the folders: reordered, the files with few and long tests would come last.
WORKERS := -n 2 --dist loadfile --no-loadscope-reorder
COVERAGE ?= --cov --cov-report=term

.PHONY: run setup test newest check faults model simulate mutants fuzz bench pictures cluster dev manifests documents lock clean

run: setup
	@exec $(BIN)/milepost up $(ARGS)

setup: $(VENV)/run.stamp

test: $(VENV)/test.stamp
	@$(BIN)/pytest $(WORKERS) $(COVERAGE) $(ARGS)

NEWEST := functions-framework hiredis httptools limits redis uvicorn uvloop

newest:
	@$(MAKE) --no-print-directory VENV=.venv-newest .venv-newest/test.stamp
	@.venv-newest/bin/python -m pip --disable-pip-version-check install --quiet --upgrade $(NEWEST)
	@.venv-newest/bin/python -m pip --disable-pip-version-check list 2>/dev/null | grep -E "^($$(echo $(NEWEST) | tr ' ' '|')) "
	@.venv-newest/bin/pytest $(WORKERS) $(ARGS)

check: $(VENV)/test.stamp
	@$(BIN)/pytest -q $(WORKERS) tests/unit tests/contract $(ARGS)

faults: $(VENV)/test.stamp
	@$(BIN)/python -m tests.faults $(ARGS)

model: $(VENV)/test.stamp
	@$(BIN)/python -m tests.model $(ARGS)

simulate: $(VENV)/test.stamp
	@$(BIN)/python -m tests.simulation $(ARGS)

mutants: $(VENV)/test.stamp
	@$(BIN)/python -m tests.mutants $(ARGS)

fuzz: $(VENV)/test.stamp
	@$(BIN)/python -m tests.fuzz $(ARGS)

bench: $(VENV)/test.stamp benchmarks/.venv/bench.stamp
	@$(BIN)/python -m benchmarks $(ARGS)

pictures: $(VENV)/test.stamp
	@$(BIN)/python -m tests.browser.pictures

cluster:
	@knative/install.sh kind $(ARGS)

dev:
	@skaffold dev $(ARGS)

manifests: $(VENV)/test.stamp
	@$(BIN)/python -m tests.chart.manifests

documents: $(VENV)/test.stamp
	@$(BIN)/python -m tests.documents

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Milepost needs Python 3.11 or newer; try make PYTHON=python3.13")'
	@$(PYTHON) -m venv $(VENV)

$(VENV)/run.stamp: requirements/run.txt pyproject.toml | $(VENV)/bin/python
	@echo "installing the locked dependencies into $(VENV)"
	@$(PIP) --require-hashes -r requirements/run.txt
	@$(PIP) --no-deps --no-build-isolation -e .
	@touch $@

$(VENV)/test.stamp: requirements/test.txt pyproject.toml $(VENV)/run.stamp
	@echo "installing the test tools into $(VENV)"
	@$(PIP) --require-hashes -r requirements/test.txt
	@touch $@

# The contenders' own: their packages would slow our functions' start down (geopy imports aiohttp where it finds it).
benchmarks/.venv/bench.stamp: requirements/bench.txt | $(VENV)/bin/python
	@echo "installing the contenders into benchmarks/.venv"
	@$(PYTHON) -m venv benchmarks/.venv
	@benchmarks/.venv/bin/python -m pip --disable-pip-version-check install --quiet --require-hashes -r requirements/bench.txt
	@touch $@

# Every stage has a folder with its main.py. One without an extra of its own has the packages of the extra `stage`.
COMPONENTS := $(patsubst functions/%/main.py,%,$(wildcard functions/*/main.py)) stage bridge gateway
LOCK := $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-annotate --no-header $(ARGS) pyproject.toml

lock: $(VENV)/test.stamp
	@$(LOCK) --extra test --group build -o requirements/test.txt
	@$(LOCK) -c requirements/test.txt --extra run --group build -o requirements/run.txt
	@for component in $(COMPONENTS) bench; do \
		extra=$$(grep -q "^$$component = " pyproject.toml && echo $$component || echo stage); \
		$(LOCK) -c requirements/test.txt --extra $$extra -o requirements/$$component.txt || exit 1; \
	done

clean:
	rm -rf .venv .venv-* benchmarks/.venv .milepost .mypy_cache .pytest_cache .ruff_cache .hypothesis *.egg-info
