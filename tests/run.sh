#!/usr/bin/env bash
# The test command of README: build the wheel, install it into build/venv, lint, check types, run all tests on it.
#
#   bash tests/run.sh                 everything
#   bash tests/run.sh -k golden       arguments go to pytest
#
# Needs Python 3.11 or newer. With nvcc on PATH the plugin library is built and checked too, or the run fails; what a
# machine cannot run is named in pytest's summary.
set -euo pipefail
cd "$(dirname "$0")/.."

venv=build/venv
python=$venv/bin/python
step() { printf '\n== %s (%d s)\n' "$1" "$SECONDS"; }

step "install"
python3 -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed, python3 is " + sys.version)'
"$python" -m pip --version >/dev/null 2>&1 || python3 -m venv "$venv"
"$python" -m pip install --quiet --upgrade pip
# First and in one version: pip would otherwise take the newest build, with gigabytes of CUDA packages.
"$python" -m pip install --quiet --requirement tests/requirements.txt
rm -rf build/wheel
plugins=ON
command -v nvcc >/dev/null || { plugins=OFF; echo "no nvcc on PATH: the plugin library is not built"; }
"$python" -m pip wheel --quiet --no-deps --config-settings=cmake.define.ALGM_BUILD_PLUGINS=$plugins --wheel-dir build/wheel .
wheel=$(ls build/wheel/algm_trt-*.whl)
extras=export,engine,openvino,plot,supervision,dev
case "$(uname -sm)" in "Linux x86_64" | "Linux aarch64") extras=$extras,rtx,lean ;; esac
"$python" -m pip install --quiet "$wheel[$extras]"
"$python" -m pip install --quiet --no-deps --force-reinstall "$wheel"

step "lint"
"$python" -m ruff check .
"$python" -m ruff format --check .

step "types"
"$python" -m mypy --python-executable "$python" -p algm_trt.exporter -p algm_trt.plugins -p algm_trt.engines -p algm_trt.runtime

step "inference without torch"
build/bare/bin/python -m pip --version >/dev/null 2>&1 || python3 -m venv build/bare
build/bare/bin/python -m pip install --quiet "$wheel"
build/bare/bin/python -m pip install --quiet --no-deps --force-reinstall "$wheel"
build/bare/bin/python -c "import importlib.util as u; assert not any(map(u.find_spec, ('torch', 'onnx', 'yaml')))"
"$venv/bin/algm-export" examples/sample -o build/sample.onnx --classes examples/sample/classes.txt --no-verify
build/bare/bin/algm-infer examples/pictures --engine build/sample.onnx -o build/masks

step "tests"
"$python" -m pytest "$@"
step "done"
