# The README's commands. Each target sets up what it needs in .venv and is quick the second time.
PYTHON ?= $(shell command -v python3 || command -v python3.12 || command -v python3.11 || command -v python3.10)
SOURCE ?= scene
PORT ?= 8080
METHOD ?= ofer
OUT ?= out/demo
ARGS ?=
ENV = . .venv/ofer_env.sh

.PHONY: demo view test fuzz soak lint generate train-env clean
.DEFAULT_GOAL := demo

# make demo [SOURCE=folder|video|0|bag] [OUT=folder] [METHOD=ofer|regressor]
demo:
	@$(PYTHON) tools/setup_env.py demo
	@$(ENV) && python -m ofer_ros.demo.demo "$(SOURCE)" --out "$(OUT)" --method "$(METHOD)" $(ARGS)

# make view [SOURCE=folder|video|0|bag] [PORT=8080] [METHOD=ofer|regressor]; until Ctrl-C
view:
	@$(PYTHON) tools/setup_env.py demo
	@$(ENV) && exec python -m ofer_ros.demo.view "$(SOURCE)" --port "$(PORT)" --method "$(METHOD)" $(ARGS)

# make test [ARGS="-k markers"]
test:
	@$(PYTHON) tools/setup_env.py test
	@$(ENV) && python -m pytest -n 2 --dist loadfile -m "not long and not gpu" $(ARGS)

# Files changed at random, on every loader: read or refused in one line (docs/security.md).
# make fuzz [ARGS="pickle head --inputs 100000 --seed 2"]
fuzz:
	@$(PYTHON) tools/setup_env.py test
	@$(ENV) && python tests/fuzz.py $(ARGS)

# Ten rough minutes for ofer_node: a camera that stops and changes, broken frames, parameters, the lifecycle.
# make soak [ARGS="--seconds 60"]; summary in out/soak/soak.json
soak:
	@$(PYTHON) tools/setup_env.py demo
	@$(ENV) && python -m tools.soak $(ARGS)

lint:
	@$(PYTHON) tools/setup_env.py test
	@$(ENV) && ruff check . && lint-imports

# docs/parameters.md from the parameter declarations, requirements/*.txt from pyproject.toml.
generate:
	@$(PYTHON) tools/setup_env.py test
	@$(ENV) && python -m tools.parameters_page && python -m tools.requirement_files

# What `ofer build-head` and `ofer train` need on top (gigabytes).
train-env:
	@$(PYTHON) tools/setup_env.py train

clean:
	rm -rf build install log out
