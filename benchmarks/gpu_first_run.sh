#!/usr/bin/env bash
# Everything that only a GPU can show, in one call of at most 25 minutes, the most telling first.
#
#     benchmarks/gpu_first_run.sh RESULTS [DATASET]     # DATASET: planned, in nnUNet_preprocessed; else a phantom is made
#     benchmarks/gpu_first_run.sh --dry-run RESULTS     # the same on a CPU, at tiny sizes
#
# Each step writes RESULTS/NN_name.log and, when it has ended well, RESULTS/NN_name.done: another call goes on with the
# rest. A step that fails or takes longer than its share does not stop the others. RESULTS/summary.txt says how each
# ended. MINUTES=25 and PYTHON=python can be set.
set -u
cd "$(dirname "$0")/.." || exit 2

dry_run=""
if [ "${1:-}" = --dry-run ]; then dry_run=yes; shift; fi
if [ $# -lt 1 ]; then sed -n '2,9s/^# \{0,1\}//p' benchmarks/gpu_first_run.sh; exit 2; fi
mkdir -p "$1" || exit 2
results=$(cd "$1" && pwd)
dataset=${2:-}
python=${PYTHON:-python}
minutes=${MINUTES:-25}
end=$((SECONDS + minutes * 60))
docs=$results/docs
mkdir -p "$docs"

if [ -n "$dry_run" ]; then
    device=cpu
    export NNUNET_TOPOMAE_PARTNER=unetrpp  # the smaller one
else
    device=cuda
    "$python" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())' ||
        { echo "PyTorch sees no CUDA device here: --dry-run runs on the CPU" >&2; exit 2; }
fi

# step NAME MINUTES COMMAND...: at most so long, and not beyond the end of the whole.
number=0
step() {
    local name limit left status
    number=$((number + 1))
    name=$(printf '%02d_%s%s' "$number" "${dry_run:+dry_}" "$1"); limit=$(($2 * 60)); shift 2
    if [ -e "$results/$name.done" ]; then say "$name: done before"; return; fi
    left=$((end - SECONDS))
    if [ "$left" -lt 5 ]; then say "$name: no time left, call again to go on"; return; fi
    if [ "$left" -lt "$limit" ]; then limit=$left; fi
    local begin=$SECONDS
    timeout -k 15 "$limit" "$@" > "$results/$name.log" 2>&1 < /dev/null
    status=$?
    case $status in
        0) touch "$results/$name.done"; say "$name: ended well in $((SECONDS - begin)) s" ;;
        124 | 137) say "$name: stopped after $limit s, see $name.log" ;;
        *) say "$name: failed with status $status, see $name.log" ;;
    esac
}
say() { echo "$1" | tee -a "$results/summary.txt"; }

# two_ranks_on_one_card: NCCL refuses that; the log is to show how.
two_ranks_on_one_card() {
    CUDA_VISIBLE_DEVICES=0 "$python" -m torch.distributed.run --standalone --nproc_per_node 2 benchmarks/two_ranks.py
}
export -f two_ranks_on_one_card
export python

data=(--phantom 64)
if [ -n "$dataset" ]; then data=("$dataset"); fi

say "$(date '+%Y-%m-%d %H:%M'), $("$python" -c 'import torch; print(torch.__version__, torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU")')"
if [ -n "$dry_run" ]; then
    step tests 5 "$python" -m pytest -q tests/augmentation/test_random_streams.py
    step two_ranks 2 "$python" -m torch.distributed.run --standalone --nproc_per_node 2 benchmarks/two_ranks.py
    step step_by_part 10 "$python" benchmarks/training.py --phantom 32 --partner unetrpp --steps 1 --warm-up 1 --rounds 1 --minutes 9.5 --docs "$docs"
    step precision 2 "$python" benchmarks/gpu_checks.py --device "$device" precision --preset tiny --patch 32 --steps 2
    step memory 2 "$python" benchmarks/gpu_checks.py --device "$device" memory --presets tiny --patches 32 --batch 1
else
    step tests 5 "$python" -m pytest -q tests/augmentation tests/commands/test_cuda.py tests/networks/test_half_precision.py
    step step_by_part 6 "$python" benchmarks/training.py "${data[@]}" --device "$device" --steps 20 --warm-up 5 --rounds 2 --minutes 5.5 --docs "$docs"
    step precision 2 "$python" benchmarks/gpu_checks.py --device "$device" precision
    step memory 3 "$python" benchmarks/gpu_checks.py --device "$device" memory
    step large_plan 6 "$python" benchmarks/training.py --phantom 160 --device "$device" --steps 10 --rounds 1 --minutes 5.5 --docs "$docs"
    step compiled 5 "$python" benchmarks/training.py "${data[@]}" --device "$device" --compile --steps 20 --warm-up 5 --rounds 1 --minutes 4.5 --docs "$docs"
    step two_ranks 1 bash -c two_ranks_on_one_card
    if [ -n "$dataset" ]; then
        step few_labels 25 "$python" benchmarks/few_labels.py -d "$dataset" --budget gpu-hours --labels 8 --seeds 1 --device "$device" --out "$results/few_labels"
    fi
fi
echo "Logs and tables: $results"
