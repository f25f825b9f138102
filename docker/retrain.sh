#!/bin/sh
# A new training from what the service has logged: log → dataset folder → run → bundle → registry.
# Started again after an interruption on the same day it goes on where it was.
set -eu

store=${1:?usage: retrain STORE-URL [REGISTRY] [WORK]}
registry=${2:-/registry}
work=${3:-/work}
run=run-$(date -u +%Y%m%d)

if [ ! -e "$work/$run/config.json" ]; then # else the training was begun: go on with its data
    begin=$work/log
    if [ ! -e "$begin/export.json" ]; then # the first time: with what the first run learned from
        begin=$work/base
        rm -rf "$begin"
        cp -r "$work/data" "$begin"
    fi
    if [ -e "$work/items" ]; then # before the events on them are read
        python -m training data update "$begin" --items "$work/items"
    fi
    python -m analysis export --redis "$store" --out "$work/log" --base "$begin"
fi
python -m training run --data "$work/log" --preset "${PRESET:-small}" --out "$work/$run"
python -m export --run "$work/$run" --registry "$registry" --activate
if [ -d "$work/run" ] && [ ! -L "$work/run" ]; then mv "$work/run" "$work/run-first"; fi
ln -sfn "$run" "$work/run" # what add-items adds to from now on
