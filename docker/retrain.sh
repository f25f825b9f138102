#!/bin/sh
# A new training from what the service has logged: log → dataset folder → run → bundle → registry.
# Started again after an interruption on the same day it goes on where it was.
set -eu

store=${1:?usage: retrain STORE-URL [REGISTRY] [WORK]}
registry=${2:-/registry}
work=${3:-/work}
run=run-$(date -u +%Y%m%d)

if [ -e "$work/log/export.json" ]; then
    python -m analysis export --redis "$store" --out "$work/log"
else # the first time: beside what the first run learned from
    python -m analysis export --redis "$store" --out "$work/log" --base "$work/data"
fi
for table in videos comments; do # items that came since, as add-items gets them: whole tables
    if [ -e "$work/items/$table.parquet" ]; then
        cp "$work/items/$table.parquet" "$work/log/.$table.partial"
        mv "$work/log/.$table.partial" "$work/log/$table.parquet"
    fi
done
python -m training run --data "$work/log" --preset "${PRESET:-small}" --out "$work/$run"
python -m export --run "$work/$run" --registry "$registry" --activate
ln -sfn "$run" "$work/run" # what add-items adds to from now on
