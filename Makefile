# Each target calls one script, and CI calls the same targets. `make` alone lists them.
.DEFAULT_GOAL := help
.PHONY: help install demo docs submitters test coverage test-long test-terraform test-image lint audit bench clean

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1|\2/p' Makefile | while IFS='|' read -r name text; do printf '%-16s %s\n' "$$name" "$$text"; done

install: ## make the environment in .venv and build the web page; done at once when nothing changed
	@scripts/install.sh

demo: install ## run a farm here and render a film on it; KEEP=1 keeps the server up
	@.venv/bin/python -m scripts.demo

docs: install ## build the documentation into build/docs
	@.venv/bin/python -m sphinx -q -W --keep-going docs build/docs && echo "docs: build/docs/index.html"

submitters: install ## pack Blender's add-on, and the client for other applications, into build/submitters
	@.venv/bin/python -m scripts.pack_submitters

test: install ## lint, then all tests; CI=true allows no test to be skipped
	@scripts/test.sh

coverage: install ## the tests with what of the code they run, into build/coverage: a quarter longer than make test
	@scripts/test.sh --cov=coalition --cov=autoscaler --cov=providers --cov-report=term:skip-covered --cov-report=html:build/coverage

test-long: install ## what takes longest: 20,000 jobs on several servers, the autoscaler stopped in 2,000 farms
	@COALITION_TEST_LONG=yes .venv/bin/python -m pytest tests/e2e/test_databases.py tests/e2e/test_scaling_out.py tests/test_apply.py tests/test_crash_points.py --durations=5

test-terraform: install ## checkov; apply the module for AWS to moto, use what it made, and destroy it: minutes
	@scripts/checkov.sh
	@COALITION_TEST_LONG=yes .venv/bin/python -m pytest tests/test_terraform.py --durations=5

test-image: install ## build the worker's image and boot it in qemu beside a server, as root: 10 minutes or more
	@.venv/bin/python scripts/packages.py debootstrap dnsmasq-base e2fsprogs fdisk iproute2 qemu-system-x86 qemu-utils
	@.venv/bin/python -m pytest -s tests/e2e/image_boot.py

lint: install ## ruff, mypy, import contracts, shellcheck
	@scripts/lint.sh

audit: install ## look up known faults of the libraries, where PyPI can be reached
	@.venv/bin/python scripts/audit.py

bench: install ## measure dispatch, submission and job overhead against their limits
	@scripts/bench.sh

clean: ## remove what was built and the environment
	@scripts/clean.sh
