# `make demo` and `make test` fetch and start whatever they need. README.md, under "Try it", lists what must be installed.

CARGO ?= cargo
# Tests of real brokers wait for half of their time; more threads than this only make them wait for each other.
TEST_THREADS ?= 3
# The kill matrix holds the bridge to seconds, and so has the machine for itself.
MATRIX := no_acknowledged_message_is_lost_whatever_fails
CARGO_DENY := 0.20.2

.DEFAULT_GOAL := help
.PHONY: help brokers demo test fuzz soak bench lint audit clean

help: ## Show this.
	@awk -F':.*## ' '/^[a-z]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

brokers: ## Fetch RocketMQ (both lines) and the NSQ programs into .brokers/; instant when they are there.
	@$(CARGO) run --quiet --package nsqbridge-brokers -- fetch

demo: brokers ## Run the main job on real brokers; ONCE=1 ends by itself, ROCKETMQ=4.9.7 takes the other line.
	@$(CARGO) build --quiet --bin nsqbridge --example demo
	@ROCKETMQ=$(or $(ROCKETMQ),5.5.0) target/debug/examples/demo $(if $(ONCE),--once)

test: brokers ## Run every test, on real brokers, and fuzz for a short time.
	$(CARGO) test --workspace --lib --bins --tests -- --test-threads=$(TEST_THREADS) --skip $(MATRIX)
	$(CARGO) test --test bridge $(MATRIX) -- --test-threads=1
	$(CARGO) test --workspace --doc
	FUZZ_SECONDS=5 fuzz/run.sh

fuzz: ## Feed every decoder with made-up input, FUZZ_SECONDS (20) each.
	@fuzz/run.sh

soak: brokers ## Every fault on both lines with both ways to flush, then NSQBRIDGE_SOAK_MINUTES of random pairs; writes docs/soak.md and docs/soak.json.
	NSQBRIDGE_SOAK=$(or $(NSQBRIDGE_SOAK),all) $(CARGO) test --test bridge $(MATRIX) -- --test-threads=1 --nocapture

bench: brokers ## Measure beside nsqd, nsq_to_nsq and RocketMQ's Java client; 20 minutes on an idle machine; writes benches/results.md and .svg.
	$(CARGO) bench --bench compare

lint: ## Check format and lints.
	$(CARGO) fmt --all --check
	$(CARGO) fmt --manifest-path fuzz/Cargo.toml --check
	$(CARGO) clippy --workspace --all-targets -- -D warnings
	$(CARGO) clippy --lib --bench micro --features fuzzing -- -D warnings

audit: .tools/bin/cargo-deny ## Check licences, bans and sources of the dependencies, offline.
	$(CARGO) fetch --locked
	.tools/bin/cargo-deny --offline --all-features check licenses bans sources

.tools/bin/cargo-deny:
	CARGO_PROFILE_DEV_DEBUG=0 $(CARGO) install cargo-deny --version $(CARGO_DENY) --locked --debug --root .tools

clean: ## Remove what was built and fetched.
	rm -rf target .brokers .tools
