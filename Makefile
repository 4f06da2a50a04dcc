# The one entry point. `make` alone lists the targets. Each makes what it needs of .venv by itself.
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

STACK := .venv/bin/python -m stack
# Variables that are given on the command line reach the recipes' environment: make up PROFILE=prod

##@ Run the stack (PROFILE=dev, prod, loadtest or offline picks env/<profile>.env)
.PHONY: up down logs ps build config check-env
up: .venv/.stack ## Build and start it, wait until it is healthy, print the URL; without Docker as local processes
	@$(STACK) up

down: .venv/.stack ## Stop it and remove what it left
	@$(STACK) down

logs: .venv/.stack ## Follow its logs
	@$(STACK) logs

ps: .venv/.stack ## Show what runs
	@$(STACK) ps

build: .venv/.stack ## Build the images
	@$(STACK) build

config: .venv/.stack ## Print the configuration in force
	@$(STACK) config

check-env: .venv/.stack ## Show every setting, its value and source, and all faults
	@$(STACK) check-env

##@ Change it without failing a request
.PHONY: reload deploy scale
reload: .venv/.stack ## Start new workers with the code that is there, let the old ones finish
	@$(STACK) reload

deploy: .venv/.stack ## Build and start new replicas beside the old ones, then stop those
	@$(STACK) deploy

scale: .venv/.stack ## Run N=<number> replicas of the application
	@$(STACK) scale $(N)

##@ Work on it
.PHONY: test lint docs lock engine clean
test: .venv/.test .venv/.loadtest .venv/.stack ## Run all tests this machine can run
	@.venv/bin/pytest $(ARGS)

lint: .venv/.lint .venv/.test .venv/.loadtest .venv/.stack ## Run all linters
	@stack/lint.sh

docs: .venv/.stack ## Renew docs/settings.md from the settings
	@$(STACK) docs >docs/settings.md

lock: .venv/.lock ## Renew the hashed locks from pyproject.toml (UPGRADE=1: newest of everything)
	@UV=.venv/bin/uv requirements/lock.sh

engine: ## Install and start a Docker Engine from Debian packages (Debian, as root)
	@docker/engine.sh

clean: ## Remove .venv and every cache
	@rm -rf .venv .mypy_cache .pytest_cache .ruff_cache .hypothesis
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

##@ Measure it
.PHONY: loadtest loadtest-ui bench chaos image-report
loadtest: .venv/.loadtest .venv/.stack ## Find the worker count (MODE=quick or full, WORKERS="1 2 4")
	@.venv/bin/python -m loadtest

loadtest-ui: .venv/.loadtest .venv/.stack ## The scenario in Locust's web page
	@url=$$(.venv/bin/python -m stack url) && .venv/bin/locust -f loadtest/locustfile.py --web-host 127.0.0.1 -H $$url

bench: .venv/.loadtest .venv/.stack ## This stack beside what a user would pick instead
	@.venv/bin/python -m benchmarks

chaos: .venv/.test .venv/.loadtest .venv/.stack ## Break things under load and count the failed requests: the figures of docs/operations.md
	@.venv/bin/pytest tests/chaos --full $(ARGS)

image-report: .venv/.stack ## What the images consist of
	@$(STACK) image-report

.PHONY: help
help:
	@awk -f stack/help.awk $(MAKEFILE_LIST)

# A stamp for each group of requirements, so that a command installs no more than it needs.
.venv/.%: requirements/%.txt requirements/server.txt
	@stack/venv.sh $* $@
