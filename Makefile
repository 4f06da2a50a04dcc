# The one entry point. `make` alone lists the targets. Each makes what it needs of .venv by itself.
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

GREENSTACK := .venv/bin/python -m greenstack.cli
# Variables that are given on the command line reach the recipes' environment: make up PROFILE=prod

##@ Run the stack (PROFILE=dev, prod, loadtest or offline picks env/<profile>.env)
.PHONY: up down logs ps top build config check-env
up: .venv/.cli ## Build and start it, wait until it is healthy, print the URL; without Docker as local processes
	@$(GREENSTACK) up

down: .venv/.cli ## Stop it; its images and volumes stay
	@$(GREENSTACK) down

logs: .venv/.cli ## Follow its logs
	@$(GREENSTACK) logs

ps: .venv/.cli ## Show what runs
	@$(GREENSTACK) ps

top: .venv/.cli ## Show live what it does: requests, latencies, workers, memory (q leaves)
	@$(GREENSTACK) top

build: .venv/.cli ## Build the images
	@$(GREENSTACK) build

config: .venv/.cli ## Print the configuration in force
	@$(GREENSTACK) config

check-env: .venv/.cli ## Show every setting, its value and source, and all faults
	@$(GREENSTACK) check-env

##@ Change it without failing a request
.PHONY: reload deploy rollback versions scale
reload: .venv/.cli ## Start new workers with the code that is there, let the old ones finish
	@$(GREENSTACK) reload

deploy: .venv/.cli ## Build (or take IMAGE=) and start new replicas beside the old ones, then stop those
	@$(GREENSTACK) deploy

rollback: .venv/.cli ## The same, back to the version before, or to TO=<version>
	@$(GREENSTACK) rollback

versions: .venv/.cli ## List the last versions, and which is in service
	@$(GREENSTACK) versions

scale: .venv/.cli ## Run N=<number> replicas of the application
	@$(GREENSTACK) scale -- $(N)

# Those whose kinds are Kubernetes' own.
KINDS := deployment service autoscaling ingress pre-deploy loadtest/locust

##@ On a cluster
.PHONY: k8s k8s-check swarm
k8s: .venv/.cli ## Apply it to the Kubernetes cluster of KUBECONFIG (PROFILE=prod IMAGE=… EDGE_IMAGE=…)
	@$(GREENSTACK) k8s

k8s-check: .venv/.lint ## Check deploy/kubernetes against three versions' schemas
	@.venv/bin/kubernetes-validate --strict --quiet -k 1.35 -k 1.36 -k 1.37 $(patsubst %,deploy/kubernetes/%.yaml,$(KINDS))

swarm: .venv/.cli ## Deploy it to a Swarm (PROFILE=prod IMAGE=… EDGE_IMAGE=…; DRY_RUN=1 prints the file)
	@$(GREENSTACK) swarm

##@ Measure it
.PHONY: loadtest capacity loadtest-ui scenario bench bench-stacks bench-growth bench-document bench-counting chaos
loadtest: .venv/.loadtest .venv/.cli ## Find the worker count (MODE=quick or full, WORKERS="1 2 4", TARGET=kubernetes)
	@.venv/bin/python -m loadtest

capacity: .venv/.loadtest .venv/.cli ## Compare the capacity with that of another checkout, as Markdown (BASE=../base)
	@.venv/bin/python -m loadtest capacity

scenario: .venv/.loadtest .venv/.cli ## Begin its scenario from your application (FROM=openapi, log or a file)
	@.venv/bin/python -m loadtest scenario

loadtest-ui: .venv/.loadtest .venv/.cli ## The scenario in Locust's web page
	@url=$$($(GREENSTACK) url) && .venv/bin/locust -f loadtest/locustfile.py --web-host 127.0.0.1 -H $$url

bench: .venv/.loadtest .venv/.cli ## This stack beside what a user would pick instead
	@.venv/bin/python -m benchmarks

bench-stacks: .venv/.test .venv/.loadtest .venv/.cli ## Complete stacks with HTTPS: their speed, and what each loses (ONLY=, TABLES=, ROUNDS=)
	@.venv/bin/python -m benchmarks.stacks

bench-growth: .venv/.test .venv/.loadtest .venv/.cli ## What more connections, WebSockets, workers, bodies, features cost (ONLY=, ROUNDS=)
	@.venv/bin/python -m benchmarks.growth

bench-document: .venv/.test .venv/.loadtest .venv/.cli ## Put the newest bench-stacks and bench-growth into docs/performance.md
	@.venv/bin/python -m benchmarks.document

bench-counting: .venv/.loadtest .venv/.cli ## What counting costs a request, beside other ways
	@.venv/bin/python -m benchmarks.counting

chaos: .venv/.test .venv/.loadtest .venv/.cli ## Break things under load and count the failed requests: the figures of docs/operations.md
	@.venv/bin/pytest tests/chaos --full -n 0 $(ARGS)

##@ Work on it
.PHONY: test test-all lint docs pictures lock engine clean
test: .venv/.test .venv/.loadtest .venv/.cli ## Run the tests that a commit needs (ARGS="-k drain" picks some)
	@.venv/bin/pytest -m "not slow" $(ARGS)

test-all: .venv/.test .venv/.loadtest .venv/.cli ## Run all tests this machine can run
	@.venv/bin/pytest $(ARGS)

lint: .venv/.lint .venv/.test .venv/.loadtest .venv/.cli ## Run all linters
	@tools/lint.sh

docs: .venv/.cli ## Renew docs/settings.md and nginx/defaults.env from the settings
	@$(GREENSTACK) docs

pictures: .venv/.loadtest .venv/.cli ## Renew docs/images; the report's picture is that of the newest load test
	@.venv/bin/python -m tools.pictures

lock: .venv/.lock ## Renew the hashed locks from pyproject.toml (UPGRADE=1: newest of everything)
	@UV=.venv/bin/uv tools/lock.sh

engine: ## Install and start a Docker Engine from Debian packages (Debian, as root)
	@tools/engine.sh

clean: ## Remove .venv and every cache
	@rm -rf .venv .mypy_cache .pytest_cache .ruff_cache .hypothesis
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

.PHONY: help
help:
	@awk -f tools/help.awk $(MAKEFILE_LIST)

# A stamp for each group of requirements, so that a command installs no more than it needs.
.venv/.%: requirements/%.txt requirements/server.txt
	@tools/venv.sh $* $@
