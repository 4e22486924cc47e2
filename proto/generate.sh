#!/usr/bin/env bash
# Generate the Python code of the contract into proto/gen/python. Called by `make proto`.
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-.venv/bin/python}
out=${1:-proto/gen/python}
mkdir -p "$out/jobwire/v1"
PATH="$(dirname "$("$python" -c 'import sys; print(sys.executable)')"):$PATH" "$python" -m grpc_tools.protoc -I proto \
    --python_out="$out" --grpc_python_out="$out" --mypy_out="$out" --mypy_grpc_out="$out" proto/jobwire/v1/*.proto
touch "$out/jobwire/__init__.py" "$out/jobwire/py.typed" "$out/jobwire/v1/__init__.py"
