# Everything a newcomer or a CI machine runs. Each target is a thin call into scripts/ or cargo.

.DEFAULT_GOAL := help
.PHONY: help demo run test test-full lint components image bench simulate clean fuzz
SHELL := bash

# Where rustup cannot fetch the pinned toolchain by name, an installed one of the very same version will do.
TOOLCHAIN := $(shell scripts/toolchain)
ifneq ($(TOOLCHAIN),)
export RUSTUP_TOOLCHAIN := $(TOOLCHAIN)
endif

help: ## list these targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-11s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: ## build and try everything with no Ollama and no Redis: PORT=8000, DEMO_EXIT=1 to leave at once
	@scripts/demo

run: ## build and run the service with the settings in the environment, e.g. OLLAMA_HOST, REDIS_URL
	@cargo run --release --locked -p host-shim

test: ## set up what the tests need and run all of them (REQUIRE_DOCKER=1: fail where Docker is missing)
	@scripts/test

test-full: ## what takes long: load while replicas and Redis fail, some four minutes
	@scripts/test-full

lint: ## formatting, clippy for native and wasm, documentation, licenses and sources of dependencies; warnings are errors
	@scripts/lint

components: ## build the Spin components (target/wasm32-wasip2/release/*.wasm)
	@scripts/wasm-target
	@cargo build --locked --target wasm32-wasip2 --release

image: ## build the container image paddock:local; RUST_IMAGE and RUNTIME_IMAGE choose the bases
	@docker build --tag paddock:local $(foreach arg,RUST_IMAGE RUNTIME_IMAGE,$(if $($(arg)),--build-arg $(arg)=$($(arg)))) .

bench: ## measure upstream, nginx, host-shim and the component side by side; prints one table
	@scripts/bench

simulate: ## play the routing policies on a simulated herd; prints tables and writes docs/simulation.svg
	@cargo run --locked --profile bench -p paddock-simulation

fuzz: ## look for inputs that nobody thought of; FUZZ_SECONDS=60 for each target
	@scripts/fuzz

clean: ## remove what was built, the tests' Python environment and the locally assembled test images
	@cargo clean
	@! docker info >/dev/null 2>&1 || docker image ls --quiet --filter label=paddock.source | sort -u | xargs -r docker image rm --force
