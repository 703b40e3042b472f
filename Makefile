# Every target works on a fresh Debian with Python 3.11, make and gcc; `.venv` is made on first use.
PYTHON ?= python3.11
BIN := .venv/bin

PERF_ANALYZER := .perf_analyzer/perf_analyzer

.PHONY: demo test unit lint format measure peers quality perf-analyzer clean

demo: .venv/ready
	$(BIN)/python examples/demo.py

# Without perf_analyzer the tests that need it are skipped, and say so; `measure` leaves out the figures under load.
test: lint
	-$(MAKE) --no-print-directory perf-analyzer
	$(MAKE) --no-print-directory unit

unit: .venv/ready
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest $(TESTS)

lint: .venv/ready
	$(BIN)/ruff check . && $(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: .venv/ready
	$(BIN)/ruff format . && $(BIN)/ruff check --fix .

measure: .venv/ready
	-$(MAKE) --no-print-directory perf-analyzer
	$(BIN)/python -m hytrec_benchmarks.measure --output reports/measured.json

peers: .venv/ready perf-analyzer
	$(BIN)/python -m hytrec_benchmarks.compare_peers --output reports/peers

quality: .venv/ready
	$(BIN)/python -m hytrec_benchmarks.quality

perf-analyzer: $(PERF_ANALYZER)

$(PERF_ANALYZER): .ci/perf-analyzer
	PYTHON=$(firstword $(wildcard $(BIN)/python) $(PYTHON)) .ci/perf-analyzer .perf_analyzer

.venv/ready: pyproject.toml .ci/install
	PYTHON=$(PYTHON) .ci/install .venv

clean:
	rm -rf .venv runs demo
