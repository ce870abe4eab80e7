# Two commands on a fresh machine with python3 >= 3.11, pip and make:  make demo   and   make test
# PYTHON=python3.12 uses (and makes) .venv-3.12 beside the default .venv.
PYTHON ?= python3
VENV := $(if $(filter python3 python,$(PYTHON)),.venv,.venv-$(patsubst python%,%,$(notdir $(PYTHON))))
PY := $(VENV)/bin/python
ARGS ?=

# A persistent compilation cache makes every run after the first several times faster.
CACHE := JAX_COMPILATION_CACHE_DIR="$(CURDIR)/.jax_cache/$(VENV)" JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS=0 \
         JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES=-1
# Two workers. Each starts with half of the files, whose tests share compiled functions; who is done early helps.
PYTEST := $(CACHE) JAX_PLATFORMS=cpu $(PY) -m pytest -n 2 --dist worksteal

# Compiling is most of what the suite costs, so `make test` takes XLA's quick pipeline (see tests/conftest.py). With QUICK=
# it is the default one, which `make test-all`, `make test-types` and the gate's double-precision truths use.
QUICK ?= JAXSCI_TEST_QUICK=1

.PHONY: install demo test test-full test-all test-types lint bench wheel-smoke notebooks docs dist clean

install:  ## the environment with pinned packages and jaxsci itself, editable
	@python3 requirements/install.py $(VENV) --python $(PYTHON)

demo: install  ## a real study: pictures, a labelled data set and a page in jaxsci-demo/
	@$(CACHE) $(PY) -m jaxsci demo $(ARGS)

test: install  ## the suite: truths, contracts, properties, bad input (<= 10 minutes on 2 cores)
	@$(QUICK) $(PYTEST) -m "not full and not slow and not aot and not device" $(ARGS)

test-full: install  ## what `make test` leaves to the gate: notebooks, long truths; through the default pipeline
	@$(PYTEST) -m "full and not slow and not aot and not device" $(ARGS)

test-all: install  ## everything, on both supported Pythons
	@$(PYTEST) -o faulthandler_timeout=0 -m "not device" $(ARGS)
	@$(if $(filter python3 python,$(PYTHON)),$(MAKE) --no-print-directory test-all PYTHON=python3.12)

# The deselected one compares functions wrapped by the hook here with bare ones in the process that it kills.
test-types: install  ## truth tests under the jaxtyping + beartype hook, for both packages
	@$(PYTEST) -m "not full and not slow and not aot and not device and not bad_input" \
	  --deselect "tests/test_contracts.py::test_driver[jaxsci.demo.resume.demonstrate]" \
	  --jaxtyping-packages=jaxsci,pallas_kernels,beartype.beartype $(ARGS)

lint: install  ## ruff, rules and unused names
	@$(PY) -m ruff check .

bench: install  ## every benchmark, small; e.g. make bench ARGS="linear --json out.json"
	@$(CACHE) $(PY) -m benchmarks $(if $(ARGS),$(ARGS),--fast)

wheel-smoke: install  ## build the wheel, install it elsewhere, use it from another directory
	@$(PY) requirements/wheel_smoke.py

notebooks: install  ## execute every percent script into its .ipynb
	@$(CACHE) $(PY) notebooks/build.py $(ARGS)

docs:  ## the site in site/, every warning an error; nothing of it is fetched when it is read
	@python3 requirements/install.py .venv-docs --python $(PYTHON) --only requirements/docs.txt
	@NO_MKDOCS_2_WARNING=1 .venv-docs/bin/python -m mkdocs build --strict $(ARGS)

dist:  ## sdist and wheel in dist/, built twice and equal, checked by twine
	@python3 requirements/install.py .venv-release --python $(PYTHON) --only requirements/release.txt
	@.venv-release/bin/python requirements/dist.py $(ARGS)

clean:
	rm -rf .venv .venv-* .jax_cache build dist site *.egg-info jaxsci-demo jaxsci-demo-*
