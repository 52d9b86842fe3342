#!/usr/bin/env bash
# The recipes at full size, on one GPU: photographs in tiles of 512 pixels, 1,000 + 2,000 steps, 40 labels.
#     docs/study/gain/on_gpu.sh DUBAI WORK       not run yet: no GPU was available
set -euo pipefail
dubai=$1 work=$2
run="python docs/study/gain/run.py"
mkdir -p "$work"
[ -d "$work/tiles" ] || $run tiles "$dubai" "$work/tiles" --side 512 --scale 1
for seed in 0 1 2; do
    for recipe in supervised supervised+frozen+weights mean_teacher+frozen+gentle+weights \
        dual_teacher dual_teacher+frozen+gentle+weights+turns; do
        $run run "$work/tiles" "$recipe" "$seed" --steps 2000 --crop 448 --device cuda \
            --work "$work/study" --table "$work/results.csv"
    done
done
