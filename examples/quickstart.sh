#!/usr/bin/env bash
# From nothing to masks: install the toolkit into .venv, export the sample checkpoint, segment the sample pictures.
set -euo pipefail
cd "$(dirname "$0")/.."

python3 -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed, python3 is " + sys.version)'
.venv/bin/python -m pip --version >/dev/null 2>&1 || python3 -m venv .venv
.venv/bin/python -m pip install --quiet --upgrade pip
.venv/bin/python -m pip install --quiet --requirement tests/requirements.txt
# The plugin library is for NVIDIA GPUs and takes minutes to compile: algm-build-plugins makes it when it is wanted.
.venv/bin/python -m pip install --quiet --config-settings=cmake.define.ALGM_BUILD_PLUGINS=OFF '.[export]'

.venv/bin/algm-export examples/sample -o masks/model.onnx --classes examples/sample/classes.txt
.venv/bin/algm-infer examples/pictures --engine masks/model.onnx -o masks --save labels,overlay,tokens
echo "these folders are in $PWD; the commands in $PWD/.venv/bin"
