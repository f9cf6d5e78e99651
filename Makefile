# `make demo` and `make test` need Python 3.11 or newer and nothing else; each makes what it needs in .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --quiet --disable-pip-version-check

.PHONY: demo test check compiled test-compiled bench chaos soak fuzz format locked lock audit clean

demo: $(VENV)/.run
	$(BIN)/upwell demo

test: $(VENV)/.dev
	$(call tests,,)

# Three runs at once, because the tests of whole processes wait most of the time; each has its own ports and folder. With
# the environment $(1) and the arguments $(2).
define tests
@folder=$$(mktemp -d /tmp/pytest-upwell-XXXXXX); trap 'kill $$one $$two 2>/dev/null; rm -rf "$$folder"*' EXIT; \
$(1) UPWELL_PORTS=10240-17000 $(BIN)/python -m pytest $(2) --ignore-glob='*/test_system_[n-z]*' --basetemp="$$folder/pytest-1" \
	tests/system >"$$folder.1" 2>&1 & one=$$!; \
$(1) UPWELL_PORTS=17000-24000 $(BIN)/python -m pytest $(2) --ignore-glob='*/test_system_[a-m]*' --basetemp="$$folder/pytest-2" \
	tests/system >"$$folder.2" 2>&1 & two=$$!; \
$(1) UPWELL_PORTS=24000-32000 $(BIN)/python -m pytest $(2) --ignore=tests/system --basetemp="$$folder/pytest-3"; failed=$$?; \
wait $$one || failed=1; wait $$two || failed=1; cat "$$folder.1" "$$folder.2"; exit $$failed
endef

check: $(VENV)/.dev
	$(BIN)/ruff format --check src tests bench chaos fuzz soak tools
	$(BIN)/ruff check src tests bench chaos fuzz soak tools
	$(BIN)/mypy
	$(BIN)/python -m pytest -q tests/test_layers.py

# The data plane as C extensions, in build/compiled; needs gcc and Python's headers, and says so.
compiled: $(VENV)/.dev
	$(BIN)/python tools/compiled.py

# The tests of what is compiled, with it: not of those parts that stay Python, nor the longest ones of whole processes.
NOT_COMPILED = config lua modules process resolve bench system/test_system_chaos.py system/test_system_kills.py
test-compiled: compiled
	$(call tests,PYTHONPATH=$(CURDIR)/build/compiled,$(NOT_COMPILED:%=--ignore=tests/%))

# Everything, some 30 minutes, kept in bench/results; BENCH="browser --log off" chooses, see `python -m bench -h`.
# Needs wrk besides (apt-get install wrk), and says so.
BENCH ?= --save
bench: $(VENV)/.bench
	-$(BIN)/python tools/compiled.py
	$(BIN)/python -m bench $(BENCH)

# Backends that fail in every way, under load, beside nginx and HAProxy: some 8 minutes at the guide's own times, kept in
# bench/results; CHAOS="killed --pace 0.2 --only upwell" chooses, see `python -m chaos -h`. `make test` has a short run.
CHAOS ?= --save
chaos: $(VENV)/.bench
	$(BIN)/python -m chaos $(CHAOS)

# Ten minutes of mixed load with reloads and faults: whether memory, descriptors and time grow, as a plot in bench/results.
# SOAK="--seconds 86400 --every 300 --save" chooses, see `python -m soak -h`. `make test` has a run of seconds.
SOAK ?= --save
soak: $(VENV)/.dev
	$(BIN)/python -m soak $(SOAK)

# Ten minutes for each fuzzer; FUZZ="framing --seconds 3600" chooses, see `python -m fuzz -h`. `make test` has a short run.
fuzz: $(VENV)/.dev
	$(BIN)/python -m fuzz $(or $(FUZZ),--seconds 600)

# An environment of exactly the versions and hashes in requirements/dev.txt, for Python 3.11 and newer; what is made after
# it (make locked test) uses it. Without it the newest in the ranges of pyproject.toml are taken, so that a Python that is
# newer than the lock works too.
locked:
	@rm -rf $(VENV)
	@$(MAKE) --no-print-directory $(VENV)/.made
	$(PIP) install --require-hashes -r requirements/dev.txt
	$(PIP) install --no-deps --no-build-isolation -e .
	@touch $(VENV)/.dev $(VENV)/.run

# Write the lock files anew, for every Python from 3.11 on; LOCK=--upgrade raises what is in them already.
lock: $(VENV)/.tools
	UV_CUSTOM_COMPILE_COMMAND="make lock" $(LOCKER) pyproject.toml --extra dev requirements/build.in -o requirements/dev.txt
	UV_CUSTOM_COMPILE_COMMAND="make lock" $(LOCKER) requirements/tools.in -o requirements/tools.txt
LOCKER = $(VENV)/tools/bin/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes $(LOCK)

# Whether a fault is known of anything in the lock files: 1 when there is, 2 when nobody could be asked.
audit: $(VENV)/.tools
	$(VENV)/tools/bin/python tools/audit.py requirements/dev.txt requirements/tools.txt

format: $(VENV)/.dev
	$(BIN)/ruff format src tests bench chaos fuzz soak tools
	$(BIN)/ruff check --fix src tests bench chaos fuzz soak tools

clean:
	rm -rf $(VENV) build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis

# The stamp comes last, so that an environment that was left half made is made anew.
$(VENV)/.made:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "upwell needs Python 3.11 or newer; name one: make PYTHON=python3.12 $(MAKECMDGOALS)" >&2; exit 1; }
	@rm -rf $(VENV)
	$(PYTHON) -m venv $(VENV) || \
		{ rm -rf $(VENV); echo "$(PYTHON) -m venv failed; on Debian: apt-get install python3-venv" >&2; exit 1; }
	@touch $@

# What a user needs: the package and what it depends on.
$(VENV)/.run: pyproject.toml | $(VENV)/.made
	$(PIP) install -e .
	@touch $@

# What a developer needs on top of it.
$(VENV)/.dev: pyproject.toml | $(VENV)/.made
	$(PIP) install -e '.[dev]'
	@touch $@ $(VENV)/.run

# What makes and reads the lock files, apart from the rest.
$(VENV)/.tools: requirements/tools.txt | $(VENV)/.made
	$(BIN)/python -m venv $(VENV)/tools
	$(VENV)/tools/bin/python -m pip --quiet --disable-pip-version-check install --require-hashes -r requirements/tools.txt
	@touch $@

# The proxies that the benchmark holds upwell beside.
$(VENV)/.bench: pyproject.toml | $(VENV)/.made
	$(PIP) install -e '.[dev,bench]'
	@touch $@ $(VENV)/.dev $(VENV)/.run
