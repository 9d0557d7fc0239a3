# `make demo` prepares an environment and runs the main job; `make test` passes the checks and tests.
# With an NVIDIA GPU: make demo CONSTRAINTS=
PYTHON ?= python3
VENV ?= .venv
CONSTRAINTS ?= -c constraints-cpu.txt
RUN = OMP_WAIT_POLICY=PASSIVE $(VENV)/bin/python

.PHONY: demo test test-all check clean

$(VENV)/.runtime: requirements.txt constraints-cpu.txt
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/pip install --quiet -r requirements.txt $(CONSTRAINTS)
	touch $@

$(VENV)/.dev: $(VENV)/.runtime requirements-dev.txt requirements-clip.txt
	$(VENV)/bin/pip install --quiet -r requirements-dev.txt $(CONSTRAINTS)
	touch $@

demo: $(VENV)/.runtime
	$(RUN) main.py --model magr --dataset aqa7 --buffer_size 10

check: $(VENV)/.dev
	$(VENV)/bin/ruff check .
	$(VENV)/bin/mypy

test: check
	OMP_NUM_THREADS=1 $(RUN) -m pytest --numprocesses 2 --dist worksteal -m "not exhaustive"

test-all: check
	OMP_NUM_THREADS=1 $(RUN) -m pytest --numprocesses 2 --dist worksteal

clean:
	rm -rf $(VENV)
