VENV = .venv
PYTHON ?= python3
PY = $(VENV)/bin/python
OLDEST = .venv-oldest
# CI runs the floor, 2.5.0. Its build without CUDA is on pytorch.org, not on PyPI.
OLDEST_TORCH ?= 2.13.0

help:  ## show the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

$(VENV)/.ready: setup.cfg pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(PY) -m pip install --quiet torch -c constraints.txt
	$(PY) -m pip install --quiet -e '.[dev]' -c constraints.txt
	touch $@

$(OLDEST)/.ready: setup.cfg pyproject.toml constraints-oldest.txt
	$(PYTHON) -m venv $(OLDEST)
	$(OLDEST)/bin/python -m pip install --quiet torch==$(OLDEST_TORCH)
	$(OLDEST)/bin/python -m pip install --quiet -e '.[plot,test]' -c constraints-oldest.txt
	touch $@

demo: $(VENV)/.ready  ## fit real data, print the comparison, save a figure
	$(PY) benchmarks/demo.py
	$(PY) docs/examples/plot_00_quickstart.py

# Processes that each have as many threads as there are cores wait for each other.
test: $(VENV)/.ready  ## run the tests
	OMP_NUM_THREADS=1 $(PY) -m pytest -n auto

test-contract: $(VENV)/.ready  ## run scikit-learn's check_estimator at the defaults
	OMP_NUM_THREADS=1 $(PY) -m pytest -n auto -m slow tests/test_common.py

test-all: $(VENV)/.ready  ## run all tests, the slow ones too, with coverage
	$(PY) -m coverage erase
	OMP_NUM_THREADS=1 $(PY) -m coverage run -m pytest -n auto -m ''
	$(PY) -m coverage combine --quiet
	$(PY) -m coverage report

test-oldest: $(OLDEST)/.ready  ## run the tests with the oldest versions that are supported
	OMP_NUM_THREADS=1 $(OLDEST)/bin/python -m pytest -n auto

test-release: test-all docs test-oldest dist  ## what a release must pass: slow tests, gallery, oldest versions

dist: $(VENV)/.ready  ## build what is published, run tests of the unpacked archive
	$(PY) -m pip install --quiet build twine -c constraints.txt
	rm -rf dist build/sdist && mkdir -p build/sdist
	$(PY) -m build
	$(PY) -m twine check --strict dist/*
	tar xf dist/*.tar.gz -C build/sdist --strip-components 1
	cd build/sdist && OMP_NUM_THREADS=1 $(abspath $(PY)) -m pytest \
	    tests/test_benchmarks.py tests/test_docs.py tests/test_layout.py \
	    tests/test_persistence.py tests/test_readme.py

mutants: $(VENV)/.ready  ## what is committed, changed line by line: what do the tests miss? (hours)
	$(PY) -m pip install --quiet cosmic-ray -c constraints.txt
	rm -rf build/mutants && mkdir -p build && git clone --quiet . build/mutants
	cd build/mutants && export PATH=$(abspath $(VENV))/bin:$$PATH OMP_NUM_THREADS=1 && \
	    cosmic-ray baseline tests/mutation.toml && \
	    cosmic-ray init tests/mutation.toml session.sqlite && \
	    cr-filter-operators session.sqlite tests/mutation.toml && \
	    cosmic-ray exec tests/mutation.toml session.sqlite && \
	    cr-report --show-diff --surviving-only session.sqlite

audit: $(VENV)/.ready  ## compare what is installed with published advisories; needs the network
	$(PY) -m pip install --quiet pip-audit -c constraints.txt
	$(PY) -m pip_audit --local --skip-editable

lint: $(VENV)/.ready  ## check style and docstrings
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m numpydoc lint skgvae/*.py skgvae/display/*.py skgvae/nn/*.py

$(VENV)/.docs-ready: $(VENV)/.ready
	$(PY) -m pip install --quiet -e '.[docs]' -c constraints.txt
	touch $@

docs: $(VENV)/.docs-ready  ## build the site, run the gallery: docs/_build/html/index.html
	$(PY) -m sphinx -W --keep-going docs docs/_build/html
	$(PY) docs/check_links.py docs/_build/html

docs-quick: $(VENV)/.docs-ready  ## build the site without running the gallery: docs/_build/quick
	$(PY) -m sphinx -W --keep-going -D plot_gallery=0 docs docs/_build/quick

bench: $(VENV)/.ready  ## measure speed, tell about the other benchmarks
	$(PY) benchmarks/speed.py
	@echo 'The others, and what they need: benchmarks/README.md. In short, DATA a folder of sets:'
	@echo '  $(PY) -m pip install -r benchmarks/requirements.txt'
	@echo '  $(PY) benchmarks/speed.py --part epochs quality memory growth stack cuda'
	@echo '  $(PY) benchmarks/cost.py DATA --baseline COMMIT'
	@echo '  $(PY) benchmarks/density.py DATA'
	@echo '  $(PY) benchmarks/aevb.py DATA'
	@echo '  $(PY) benchmarks/regression.py DATA   (also multi_output.py, classification.py)'

clean:  ## remove the environment and what was built
	rm -rf $(VENV) $(OLDEST) build dist *.egg-info .pytest_cache .ruff_cache .coverage
	rm -rf docs/_build docs/auto_examples docs/generated docs/sg_execution_times.rst
	find . -name __pycache__ -prune -exec rm -rf {} +

.PHONY: help demo test test-contract test-all test-oldest test-release dist mutants audit lint docs docs-quick \
    bench clean
