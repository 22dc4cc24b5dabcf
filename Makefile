# Needs make and Python 3.11 or newer; everything else is installed into .venv.
PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt
SOURCES := pyproject.toml constraints.txt

.DEFAULT_GOAL := run
.PHONY: run test test-slow test-all soak lint torch launchers data figures laptop table optax far honesty kinks bench clean

run: .venv/.cli          ## the embedded example: what Adam does, and what it follows
	$(BIN)/shadowflow shadow

PYTEST := $(BIN)/python -m pytest -n 2 --dist worksteal

test: .venv/.dev         ## every part of it, in a few minutes
	$(PYTEST)

test-slow: .venv/.dev    ## what test leaves out
	$(PYTEST) -m slow

test-all: .venv/.dev     ## every test
	$(PYTEST) -m ""

soak: .venv/.dev         ## a training run killed a hundred times, against one that was left alone
	$(BIN)/python tests/killing.py 100

lint: .venv/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/ty check

torch: .venv/.torch      ## with it, the tests of the PyTorch side run instead of being skipped

launchers: .venv/.launchers ## with them, the tests of sweeps by Ray and Slurm run

data: .venv/.cli         ## the real data sets, into the cache; without them their tests are skipped
	$(BIN)/shadowflow data get mnist fashion-mnist cifar10

figures: .venv/.dev      ## the paper's figures at full scale, with their evidence, into docs/results
	$(BIN)/shadowflow reproduce all shuffles constants --out build/results
	mkdir -p docs/results
	for name in fig1 fig2 fig3 shuffles constants; do \
	  cp build/results/$$name-full/figure.png docs/results/$$name.png; \
	  cp build/results/$$name-full/evidence.json docs/results/$$name.json; done
	$(BIN)/python docs/make_table.py

RUNS := fig4 fig5 fig6 fig7 fig8 fig9 fig10 fig11 fig12

laptop: .venv/.dev       ## Figures 4 to 12 on narrow networks, and the paper's claims on trial
	$(BIN)/shadowflow reproduce $(RUNS) --scale laptop --workers 2 --out build/results
	$(BIN)/shadowflow claims --scale laptop --workers 2 --out build/results
	cp build/results/claims-laptop.json docs/results/claims.json
	for name in $(RUNS); do \
	  cp build/results/$$name-laptop/figure.png docs/results/$$name.png; \
	  cp build/results/$$name-laptop/evidence.json docs/results/$$name.json; done
	$(BIN)/python docs/make_table.py

table: .venv/.dev        ## measures every order anew, redraws the figures and the tables of docs/
	$(BIN)/shadowflow verify --json docs/verify.json
	$(BIN)/shadowflow shadow --quiet --out build/docs
	cp build/docs/adam-lr0.0001-*/figure.png docs/digits-1e-4.png
	cp build/docs/adam-lr0.001-*/figure.png docs/digits-1e-3.png
	$(BIN)/python docs/make_edges.py
	$(BIN)/python docs/make_table.py

optax: .venv/.dev        ## every constructor of optax: can it be followed, with what order (half an hour)
	$(BIN)/python docs/make_optax.py
	$(BIN)/python docs/make_table.py

far: .venv/.dev          ## how far the order can be driven: pictures and tables of docs/how_far.md
	$(BIN)/shadowflow orders --orders 1 2 3 --out build/far-digits \
	  --learning-rates 1e-6 1e-5 3e-5 1e-4 3e-4 1e-3 3e-3
	$(BIN)/shadowflow orders opt:adam --opt.eps 0 --opt.eps-root 1e-8 --problem mnist --single \
	  --learning-rates --far 1000 --at 1e-3 --out build/far-mnist
	for name in digits mnist; do \
	  cp build/far-$$name/figure.png docs/results/far-$$name.png; \
	  cp build/far-$$name/numbers.json docs/results/far-$$name.json; done
	$(BIN)/python docs/make_far.py
	$(BIN)/python docs/make_table.py

honesty: .venv/.dev      ## what is said without the optimizer's run, against that run: how often it is false
	$(BIN)/python docs/make_honesty.py
	$(BIN)/python docs/make_table.py

kinks: .venv/.dev        ## what a ReLU does to orders and to the predicted effect of memory
	$(BIN)/python docs/make_kinks.py
	$(BIN)/python docs/make_table.py

bench: .venv/.dev        ## what every method costs: ratios side by side, into docs/costs.md
	$(BIN)/python benchmarks/bench.py
	$(BIN)/python docs/make_table.py

clean:
	rm -rf .venv build dist results .pytest_cache .hypothesis .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

.venv/.python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "shadowflow needs Python 3.11 or newer; $(PYTHON) is $$($(PYTHON) --version 2>&1)." \
	       "Name another: make PYTHON=python3.12" >&2; exit 1; }
	$(PYTHON) -m venv .venv
	@touch $@

.venv/.cli: $(SOURCES) | .venv/.python
	$(PIP) -e '.[cli]'
	@touch $@

.venv/.dev: $(SOURCES) | .venv/.python
	$(PIP) -e '.[dev]'
	@touch $@ .venv/.cli

.venv/.torch: $(SOURCES) | .venv/.python
	$(PIP) -e '.[torch]'
	@touch $@

.venv/.launchers: $(SOURCES) | .venv/.python
	$(PIP) -e '.[ray,slurm]'
	@touch $@
