# Everything runs inside .venv, built once from hash-pinned locks. No root, nothing installed outside this folder.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.DEFAULT_GOAL := help
.PHONY: help demo test lint types unit integration vm e2e image container bench attack scale generate lock clean

help: ## Show this list
	@awk -F':.*## ' '/^[a-z-]+:.*## /{printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(READY): requirements-dev.lock pyproject.toml scripts/make-venv
	@PYTHON="$(PYTHON)" scripts/make-venv $(VENV)
	@touch $@

demo: $(READY) ## Attest once, then fetch a resource, a sealed secret and an image key
	@$(BIN)/python -m agent.devkit.demo

test: lint types unit integration ## Everything CI runs

lint: $(READY) ## Style and layering
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(READY) ## mypy, strict
	$(BIN)/mypy

unit: $(READY) ## Tests without a network, in random order
	$(BIN)/python -X dev -m pytest tests/unit

integration: $(READY) ## Real sockets, real programs
	$(BIN)/python -X dev -m pytest tests/integration

vm: $(READY) ## Attesters against the kernel's own interfaces, in a virtual machine (Debian; QEMU, gcc, swtpm)
	$(BIN)/python -X dev -m pytest tests/e2e/vm

e2e: $(READY) ## Boot the built root in a virtual machine: verity, systemd, agent, first secret (Debian)
	$(BIN)/python -X dev -m pytest tests/e2e/boot

image: $(READY) ## Kata's extension image, root hash and SBOM into build/image (Debian)
	@$(BIN)/python -m rootfs extension

container: $(READY) ## Build the Containerfile with buildah, run the image, ask it (Debian, root)
	$(BIN)/python -X dev -m pytest -s tests/e2e/container

bench: $(READY) ## Speed, memory and a pod's boot against upstream's cost model; writes bench.json
	@$(BIN)/python -m tests.bench

attack: $(READY) ## One container attacks: life, answers and memory of the agent (root, for a memory cgroup)
	@$(BIN)/python -m tests.bench attack

scale: $(READY) ## Simulate a thundering herd; rewrite the figures of docs/scale.md
	@$(BIN)/python -m tests.bench.herd

generate: $(READY) ## Rebuild generated files: protobuf code, docs/errors.md, docs/configuration.md
	$(BIN)/python scripts/generate.py

lock: ## Rebuild the locks (needs uv)
	uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header --no-annotate pyproject.toml -o requirements.lock
	uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header --no-annotate --group dev --extra grpc --extra nvidia --extra devkit pyproject.toml -o requirements-dev.lock

clean: ## Remove what make built
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
