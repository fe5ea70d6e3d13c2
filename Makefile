# The commands a person types. `make help` lists them.

CARGO   ?= cargo
PROFILE := release
TARGET  := $(or $(CARGO_TARGET_DIR),target)
BINARY  := $(abspath $(TARGET))/x86_64-unknown-linux-gnu/$(PROFILE)/nestling

# What is handed on: make nest ARGS='--metal vmx --verbose', make bench-net ARGS=--quick
ARGS    ?=
# How long each fuzz target runs, in seconds.
SECONDS_EACH ?= 60

.DEFAULT_GOAL := help
# Cargo uses all processors by itself, and emulators want one each.
.NOTPARALLEL:

.PHONY: help
help: ## Say what there is to make
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/\1\t\2/p' $(MAKEFILE_LIST) | expand -t 14

.PHONY: nest
nest: ## Boot L1, and L2 in it, on this host or on an emulated processor
	@resources/setup build nest
	@$(CARGO) build --release --package nestling
	@$(BINARY) nest $(ARGS)

.PHONY: build
build: ## Build the static release binary
	@resources/setup build
	@$(CARGO) build --release --package nestling
	@echo $(BINARY)

.PHONY: test
test: setup style unit-test machine-test ## Install what the tests need, then run all of them

.PHONY: unit-test
unit-test: ## Run the unit and property tests
	$(CARGO) test --workspace --exclude nestling-tests --no-fail-fast -- --show-output

.PHONY: machine-test
machine-test: build ## Run the tests that boot machines
	NESTLING_BIN=$(BINARY) $(CARGO) test --package nestling-tests --no-fail-fast

.PHONY: style
style: ## Check the formatting, and clippy's warnings
	@if $(CARGO) fmt --version >/dev/null 2>&1; then \
		$(CARGO) fmt --all --check; \
	else \
		echo "skipped: the formatting: rustup component add rustfmt"; \
	fi
	@if $(CARGO) clippy --version >/dev/null 2>&1; then \
		$(CARGO) clippy --workspace --all-targets --quiet -- --deny warnings; \
	else \
		echo "skipped: the warnings: rustup component add clippy"; \
	fi

.PHONY: lint
lint: style ## Check the style, the dependencies and the spelling
	@command -v cargo-deny >/dev/null || \
		{ echo "no cargo-deny: cargo install --locked cargo-deny" >&2; exit 1; }
	cargo deny check bans licenses sources
	@if cargo deny fetch db 2>/dev/null; then \
		cargo deny check --disable-fetch advisories; \
	else \
		echo "skipped: the advisory database can't be fetched"; \
	fi
	@command -v typos >/dev/null || \
		{ echo "no typos: cargo install --locked typos-cli" >&2; exit 1; }
	typos

.PHONY: bench
bench: bench-boot bench-levels bench-net ## Run all measurements

.PHONY: bench-boot
bench-boot: setup build ## Measure boots, side by side with QEMU's, on emulated AMD-V
	@NESTLING_BIN=$(BINARY) $(CARGO) run --quiet --release --package nestling-tests --bin bench-boot

.PHONY: bench-levels
bench-levels: setup build ## Measure what a level costs, on emulated AMD-V
	@$(BINARY) bench run --metal svm --boots 3 --output target/bench-levels $(ARGS)

.PHONY: bench-net
bench-net: build ## Measure the virtual network, side by side with passt's and slirp's
	@resources/setup bench
	@NESTLING_BIN=$(BINARY) $(CARGO) run --quiet --release --package nestling-tests \
		--bin bench-net -- $(ARGS)

.PHONY: fuzz
fuzz: ## Run each fuzz target for a minute (SECONDS_EACH=60)
	@command -v cargo-fuzz >/dev/null || \
		{ echo "no cargo-fuzz: cargo install --locked cargo-fuzz" >&2; exit 1; }
	@for target in $$($(CARGO) fuzz list --fuzz-dir tests/fuzz); do \
		mkdir -p tests/fuzz/corpus/$$target tests/fuzz/seeds/$$target; \
		RUSTC_BOOTSTRAP=1 $(CARGO) fuzz run --fuzz-dir tests/fuzz $$target \
			tests/fuzz/corpus/$$target tests/fuzz/seeds/$$target -- \
			-max_total_time=$(SECONDS_EACH) || exit 1; \
	done

.PHONY: setup
setup: ## Install what is missing, from Debian's packages
	@resources/setup

.PHONY: clean
clean: ## Remove what was built; the cache of kernels and images stays
	$(CARGO) clean
