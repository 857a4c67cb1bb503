# One command per habit. `make demo` and `make test` work on a fresh machine: they make the virtual environment themselves.
SHELL := /bin/sh
PY := .venv/bin/python
# Tests run in parallel, one more than there are cores: they wait more than they work.
TEST_WORKERS ?= $(shell echo $$(($$(getconf _NPROCESSORS_ONLN) + 1)))
# What `make test` tries; the servers among them are brought up by the tests themselves.
ALL_STORES := memory,sqlite,etcd,consul,zookeeper
STORES ?= $(ALL_STORES)
export ROSTER_TEST_STORES := $(STORES)

comma := ,
stores := $(subst $(comma), ,$(STORES))
# A bus and the database of runs are no stores: they are tried whatever STORES says.
servers := $(filter etcd consul zookeeper,$(stores)) rabbitmq postgres
unknown := $(filter-out $(subst $(comma), ,$(ALL_STORES)),$(stores))
ifneq ($(unknown),)
  $(error STORES: no store $(unknown); there are $(ALL_STORES))
endif

.DEFAULT_GOAL := help
.PHONY: help setup setup-dev demo test lint fmt bench chaos lock clean

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*##' Makefile | sed -E 's/^([a-z-]+):.*## (.*)/  make \1|\2/' | column -t -s '|' 2>/dev/null || grep -hE '^[a-z-]+:.*##' Makefile

setup: .venv/.run  ## make .venv with the `roster` command in it
setup-dev: .venv/.dev  ## the same, with the tools to work on the project

.venv/.run: requirements/run.txt pyproject.toml scripts/setup
	@scripts/setup run

.venv/.dev: requirements/dev.txt pyproject.toml scripts/setup
	@scripts/setup dev

demo: setup  ## three writers, one editor, sixty commands, one kill -9
	@.venv/bin/roster demo

test: setup-dev lint  ## lint, then the whole test suite (STORES=memory,sqlite tries less)
	@scripts/setup-tests
	@$(PY) scripts/setup-servers $(servers)
	@scripts/setup-interop
	@$(PY) -m pytest -n $(TEST_WORKERS) --dist worksteal

lint: setup-dev  ## ruff, mypy --strict, the layers
	@.venv/bin/ruff check .
	@.venv/bin/ruff format --check .
	@.venv/bin/mypy
	@.venv/bin/lint-imports --no-cache

fmt: setup-dev  ## format and apply safe fixes
	@.venv/bin/ruff check --fix .
	@.venv/bin/ruff format .

bench: setup-dev  ## timings, medians of several runs, some beside other libraries
	@$(PY) scripts/setup-servers $(servers)
	@scripts/setup-peers
	@$(PY) -m bench

chaos: setup-dev  ## faults under load, bounded in time, drawn (BUS=amqp, RUNS=postgres: those of the bus, of runs)
	@$(PY) scripts/setup-servers $(servers)
	@scripts/setup-peers celery faststream nameko
	@$(PY) -m chaos --draw docs/images/faults.svg $(if $(BUS),--bus $(BUS)) $(if $(RUNS),--runs $(RUNS))

lock:  ## pin the requirements again (needs uv)
	@for set in run build dev image interop-build interop $(patsubst requirements/%.in,%,$(wildcard requirements/peer-*.in)); do uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-annotate \
	  --no-emit-index-url --custom-compile-command "make lock" requirements/$$set.in -o requirements/$$set.txt || exit 1; done

clean:  ## remove the environment and every cache
	@rm -rf .venv .interop .interop.log .peers .mypy_cache .ruff_cache .pytest_cache .hypothesis .servers build dist
