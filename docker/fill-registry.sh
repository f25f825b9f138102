#!/bin/sh
# Fills an empty registry with a model of the demo world. Started again after an interruption it
# goes on, and where a version is current it does nothing.
set -eu

registry=${1:-/registry}
work=${2:-/work}

if [ -e "$registry/current.json" ]; then
    echo "$registry has a current version: nothing to do"
    exit 0
fi
if [ ! -e "$work/data" ]; then
    python -m training data demo --out "$work/data"
fi
python -m training run --data "$work/data" --preset small \
    --set fit.batch_rows=16 --set fit.epochs=12 --set text.trigrams=128 --out "$work/run"
python -m export --run "$work/run" --registry "$registry" --activate
