# isocline: `make repro` sets everything up and runs the pipeline, `make test` sets everything up and runs the tests.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
ENV    := $(VENV)/.installed
RUN    := PATH="$(CURDIR)/$(BIN):$$PATH"
ARGS   ?=

.DEFAULT_GOAL := help
.PHONY: help env repro test studies distill language ui report bench lint format smoke doctor clean

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo "Variables: PYTHON (an interpreter >= 3.11, default python3), ARGS (more arguments)"

env: $(ENV)  ## make .venv and install everything into it (instant when nothing changed)

$(ENV): pyproject.toml constraints.txt .ci/setup
	@PYTHON="$(PYTHON)" VENV="$(VENV)" bash .ci/setup
	@touch $@

repro: $(ENV)  ## run the pipeline that params.yaml describes; only what changed is redone
	@$(RUN) isocline repro $(ARGS)

test: $(ENV)  ## run all tests
	@$(RUN) pytest -n 2 $(ARGS)

studies: $(ENV)  ## samplers, depth, stability, dynamics, optimisers in full, and the report: about two hours on two cores (params.yaml is composed anew)
	@$(RUN) isocline compose experiment=studies $(ARGS)
	@$(RUN) isocline repro study-solvers study-depth study-stability study-optimisation analyse
	@$(RUN) isocline report

distill: $(ENV)  ## all image students with larger budgets, and the report (params.yaml is composed anew)
	@$(RUN) isocline compose experiment=distillation $(ARGS)
	@$(RUN) isocline repro evaluate-images
	@$(RUN) isocline report

language: $(ENV)  ## all ten text models, two of them over epochs, and the report (params.yaml is composed anew)
	@$(RUN) isocline compose experiment=language $(ARGS)
	@$(RUN) isocline repro evaluate-text
	@$(RUN) isocline report

ui: $(ENV)  ## open MLflow's pages on http://127.0.0.1:5000 (ARGS="--port 5001" for another port)
	@$(RUN) isocline ui $(ARGS)

report: $(ENV)  ## write reports/index.html again
	@$(RUN) isocline report $(ARGS)

bench: $(ENV)  ## measure throughput side by side with bare loops
	@for file in bench/*.py; do echo "== $$file"; $(RUN) python "$$file" $(ARGS) || exit 1; done

lint: $(ENV)  ## check style, types and import contracts
	@$(RUN) ruff check src pipeline tests bench
	@$(RUN) ruff format --check src pipeline tests bench
	@$(RUN) mypy
	@$(RUN) lint-imports

format: $(ENV)  ## format the code
	@$(RUN) ruff check --fix src pipeline tests bench
	@$(RUN) ruff format src pipeline tests bench

smoke: $(ENV)  ## every stage at a tiny size and the regression gate, in a temporary clone of the last commit
	@$(RUN) bash .ci/smoke

doctor: $(ENV)  ## say what is wrong with environment, data and tracking, and the cure
	@$(RUN) isocline doctor

clean:  ## remove the environment and tool caches; data, results and runs stay
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache build dist
	find . -name __pycache__ -type d -not -path './.dvc/*' -prune -exec rm -rf {} +
