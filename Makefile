# Every target works on a fresh Debian with Python 3.11, make and gcc; `.venv` is made on first use.
PYTHON ?= python3.11
BIN := .venv/bin
# .valkey: Valkey's server as redis-server, after `make valkey`.
REDIS ?= .redis
export PATH := $(CURDIR)/.prometheus:$(CURDIR)/$(REDIS):$(CURDIR)/.haproxy:$(PATH)

# Processes that run tests; one more than two cores, as many tests wait for a server.
WORKERS ?= 3

PERF_ANALYZER := .perf_analyzer/perf_analyzer

# Every server and command of the tests would otherwise compile the modules again, where the environment says so.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo test test-long unit lint style types format measure peers quality baselines perf-analyzer prometheus redis valkey haproxy topology recovery clean

demo: .venv/ready
	$(BIN)/python examples/demo.py

# Without perf_analyzer, prometheus, redis or haproxy the tests that need it are skipped, and say so; `measure` leaves out the figures
# under load.
# The type checker runs beside the tests, and ends long before them.
test: .venv/ready
	-$(MAKE) --no-print-directory --keep-going perf-analyzer prometheus redis haproxy
	$(MAKE) --no-print-directory style
	$(MAKE) --no-print-directory --jobs=2 types unit

# Ray is for these alone.
test-long: .venv/ready
	-$(MAKE) --no-print-directory --keep-going redis haproxy
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[ray]'
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m long

# TESTS="FILE OPTIONS": those alone, in one process.
unit: .venv/ready
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest $(or $(TESTS),--numprocesses=$(WORKERS) --dist=loadgroup --no-loadscope-reorder)

lint: style types

style: .venv/ready
	$(BIN)/ruff check . && $(BIN)/ruff format --check .
	$(BIN)/python -c "from importlinter.cli import lint_imports_command as main; main()"

types: .venv/ready
	$(BIN)/python -m mypy

format: .venv/ready
	$(BIN)/ruff format . && $(BIN)/ruff check --fix .

measure: .venv/ready
	-$(MAKE) --no-print-directory perf-analyzer
	$(BIN)/python -m hytrec_benchmarks.measure --output reports/measured.json

peers: .venv/ready perf-analyzer
	$(BIN)/python -m hytrec_benchmarks.compare_peers --output reports/peers

quality: .venv/ready
	$(BIN)/python -m hytrec_benchmarks.quality

# Hours; what it finds is committed.
baselines: .venv/ready
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[bench]'
	$(BIN)/python -m hytrec_benchmarks.baselines

# Three servers, a Redis Cluster and HAProxy while parts of them fail, for five minutes.
topology: .venv/ready redis haproxy
	$(BIN)/python -m hytrec_benchmarks.topology --output reports/topology.json

# How long requests take while Redis is killed, cut off, refuses writes or fails over.
recovery: .venv/ready redis
	HYTREC_RECOVERY=reports/recovery.json $(BIN)/python -m pytest -m long tests/export/state/test_redis_drills.py

perf-analyzer: $(PERF_ANALYZER)

$(PERF_ANALYZER): .ci/perf-analyzer
	PYTHON=$(firstword $(wildcard $(BIN)/python) $(PYTHON)) .ci/perf-analyzer .perf_analyzer

prometheus: .prometheus/prometheus

.prometheus/prometheus: .ci/prometheus
	.ci/prometheus .prometheus

redis: .redis/redis-server

.redis/redis-server: .ci/redis
	.ci/redis .redis

valkey: .valkey/redis-server

.valkey/redis-server: .ci/redis
	.ci/redis .valkey valkey

haproxy: .haproxy/haproxy

.haproxy/haproxy: .ci/haproxy
	.ci/haproxy .haproxy

.venv/ready: pyproject.toml .ci/install
	PYTHON=$(PYTHON) .ci/install .venv

clean:
	rm -rf .venv runs demo
