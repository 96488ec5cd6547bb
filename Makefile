# make help    this text
# make demo    the chat, with the hub and the app, on one printed address
# make demo-cluster    the same on two hubs that share one history, behind nginx; ENGINE=valkey instead of PostgreSQL
# make test    all tests, in minutes; one layer of them with
#              LAYER=seconds   what is pure: no process, no network
#              LAYER=minutes   hubs, processes of Python, databases
#              LAYER=servers   Chromium, Apache, nginx, Caddy, supervisord, npm
#              LAYER="seconds or minutes"   and what else pytest -m takes; PYTEST has more arguments for it
#              ENGINE=postgresql, valkey or redis   the tests that talk to hubs, with the hubs on that engine; with
#              LAYER=every_engine only the set that CI runs there, in two minutes
#              PORTABLE=yes   the tests of sockets, processes and storage, without what only Linux has
#              As root on Debian this first installs the packages that the layers need; not with TEST_SETUP=no.
# make foreign  clients that others wrote, on a hub; docs/clients.md
# make check   ruff and strict mypy
# make docs    the pages that are made from the code
# make npm     the JavaScript module as an npm package, build/npm, and its archive beside it
# make site    the documentation as a site, build/site/index.html
# make chaos   real hubs under faults, for ten minutes; options in SEEDS, MINUTES, WORKERS, ENGINE, NODES and CHAOS,
#              make chaos CHAOS=--help
# make bench   what docs/performance.md shows, in 25 minutes (Linux, a C compiler); options in BENCH,
#              make bench BENCH=--help
# make bench-quick     the same, smaller, in three minutes
# make bench-publish   put the last make bench, or some rows of it, into docs/performance.md and its folder
#
# Each of them makes its own virtual environment first. PYTHON chooses the interpreter. DEPENDENCIES=lowest installs
# the lowest versions that setup.cfg allows, DEPENDENCIES=newest the newest, pre-releases too.

PYTHON ?= python3
DEPENDENCIES ?=
VERSION := $(shell $(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null)
VENV := .venv-$(VERSION)$(if $(DEPENDENCIES),-$(DEPENDENCIES))
BIN := $(VENV)/bin
INSTALL = $(BIN)/pip install --quiet --disable-pip-version-check
ifeq ($(DEPENDENCIES),lowest)
    INSTALL += --constraint $(VENV)/lowest.txt
else ifeq ($(DEPENDENCIES),newest)
    INSTALL += --upgrade --upgrade-strategy eager --pre
else ifneq ($(DEPENDENCIES),)
    $(error DEPENDENCIES is "$(DEPENDENCIES)"; it can be lowest or newest)
endif

FOREIGN := build/foreign
TALK_TO_HUBS := tests/hub tests/server tests/test_together.py tests/flask_mercure/reading \
	tests/flask_mercure/doctor tests/flask_mercure/publishing tests/examples/test_websocket.py
PORTABLE_TESTS := tests/test_windows.py tests/fanout tests/http2 tests/metrics tests/server tests/hub/test_process.py \
	tests/hub/test_stop.py tests/hub/test_streams.py tests/hub/test_websocket.py tests/flask_mercure/test_development.py \
	$(patsubst %,tests/storage/test_%.py,clock doorbell feed files locks migration retention several_processes sqlite store)

.PHONY: help python demo demo-cluster test foreign check docs npm site chaos bench bench-quick bench-publish clean

help:
	@sed -n 's/^# \{0,1\}//p; /^$$/q' Makefile

demo: $(VENV)/hub.done
	@echo " * Open the chat in two windows, one of them private, and sign in under two names"
	@exec $(BIN)/flask --app examples/chat/app mercure run --host localhost --port 8000 $(DEMO)

demo-cluster: python
	@$(PYTHON) tests/packages.py --only nginx $(if $(filter valkey,$(ENGINE)),valkey-server,postgresql)
	@$(MAKE) --no-print-directory $(VENV)/cluster.done
	@exec $(BIN)/python -m examples.cluster.demo $(if $(ENGINE),--engine $(ENGINE)) $(DEMO)

test: python
	@$(PYTHON) tests/packages.py "$(LAYER)"
	@$(MAKE) --no-print-directory $(VENV)/test.done
	ENGINE=$(ENGINE) $(if $(PORTABLE),PYTHONPATH=$(CURDIR)/tests/portable) \
		$(BIN)/python -m pytest -n 3 --dist loadfile --no-loadscope-reorder \
		$(if $(LAYER),-m "$(LAYER)") $(if $(ENGINE),$(TALK_TO_HUBS)) $(if $(PORTABLE),$(PORTABLE_TESTS)) $(PYTEST)

foreign: $(VENV)/foreign.done
	@sh tests/foreign/install.sh $(FOREIGN)
	timeout --foreground -k 10 900 $(BIN)/python -m pytest tests/foreign -m foreign -n 3 $(PYTEST)

check: $(VENV)/test.done
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: $(VENV)/hub.done
	$(BIN)/python -m mercure_hub settings > docs/settings.md
	$(BIN)/python -m docs.website.settings
	$(BIN)/python -m docs.website.commands > docs/commands.md
	$(BIN)/python -m docs.website.problems > docs/problems.md
	$(BIN)/python -m mercure_hub install --docs docs

npm:
	PYTHONPATH=hub $(PYTHON) -m npm.build build/npm
	cd build && npm pack ./npm --loglevel=error

site: $(VENV)/docs.done
	$(BIN)/python -m sphinx -E -W --keep-going -n -q -c docs -d build/doctrees . build/site
	@echo build/site/index.html

chaos: $(VENV)/test.done
	$(BIN)/python -m chaos $(if $(SEEDS),--seeds $(SEEDS)) $(if $(MINUTES),--minutes $(MINUTES)) \
		$(if $(WORKERS),--workers $(WORKERS)) $(if $(ENGINE),--engine $(ENGINE)) \
		$(if $(NODES),--nodes $(NODES)) $(CHAOS)

bench: $(VENV)/test.done
	$(MAKE) -C bench
	$(BIN)/python -m bench.run $(BENCH)

bench-quick: $(VENV)/test.done
	$(MAKE) -C bench
	$(BIN)/python -m bench.run --quick $(BENCH)

bench-publish: $(VENV)/hub.done
	$(BIN)/python -m bench.publish build/bench/results.json

python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || \
		{ echo "flask-mercure needs Python 3.11 or newer; set PYTHON=/path/to/python3"; exit 1; }

$(VENV)/bin/pip: | python
	@sh tests/venv.sh $(PYTHON) $(VENV)
	@$(BIN)/python -m tests.lowest > $(VENV)/lowest.txt

$(VENV)/hub.done: setup.cfg pyproject.toml | $(VENV)/bin/pip
	$(INSTALL) -e '.[hub]'
	@touch $@

$(VENV)/test.done: setup.cfg pyproject.toml | $(VENV)/bin/pip
	$(INSTALL) -e '.[hub,postgresql,redis,test,check,docs]'
	@touch $@ $(VENV)/hub.done $(VENV)/docs.done $(VENV)/cluster.done

$(VENV)/cluster.done: setup.cfg pyproject.toml | $(VENV)/bin/pip
	$(INSTALL) -e '.[hub,postgresql,redis]'
	@touch $@ $(VENV)/hub.done

$(VENV)/foreign.done: setup.cfg pyproject.toml | $(VENV)/bin/pip
	$(INSTALL) -e '.[hub,test,foreign]'
	@touch $@ $(VENV)/hub.done

$(VENV)/docs.done: setup.cfg pyproject.toml | $(VENV)/bin/pip
	$(INSTALL) -e '.[hub,docs]'
	@touch $@ $(VENV)/hub.done

clean:
	rm -rf .venv-* build *.egg-info .pytest_cache .mypy_cache .ruff_cache
	$(MAKE) -C bench clean
