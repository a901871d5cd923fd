#!/usr/bin/env bash
# What only a GPU can show, in fifteen minutes of one card at most, the most telling first.
#
#     benchmarks/gpu_first_run.sh RESULTS [DATA]      # DATA: by gpu_bundle.py; without it, it is made first
#     benchmarks/gpu_first_run.sh --dry-run RESULTS   # the same on a CPU, at tiny sizes
#
# Each step writes RESULTS/NN_name.log and, when it has ended well, RESULTS/NN_name.done: another call goes on with the
# rest. A step that fails or takes longer than its share does not stop the others. RESULTS/summary.txt says how each
# ended. A call ends after MINUTES=9: two of them are enough. Also: PYTHON=python, SITE= (where the wheels of
# gpu_bundle.py were installed), SCRATCH= (for checkpoints, kept from call to call).
set -u
cd "$(dirname "$0")/.." || exit 2

dry_run=""
if [ "${1:-}" = --dry-run ]; then dry_run=yes; shift; fi
if [ $# -lt 1 ]; then sed -n '2,10s/^# \{0,1\}//p' benchmarks/gpu_first_run.sh; exit 2; fi
mkdir -p "$1" || exit 2
results=$(cd "$1" && pwd)
python=${PYTHON:-python}
scratch=${SCRATCH:-${TMPDIR:-/tmp}/gpu_first_run.$(id -u)}
data=${2:-$scratch/data}
end=$((SECONDS + ${MINUTES:-9} * 60))
docs=$results/docs
mkdir -p "$docs" "$scratch"

export PYTHONPATH="$PWD${SITE:+:$SITE}${PYTHONPATH:+:$PYTHONPATH}" MPLBACKEND=Agg
export nnUNet_raw=$scratch/raw nnUNet_preprocessed=$data nnUNet_results=$scratch/results nnUNet_extTrainer=$PWD/trainers
export NNUNET_TOPOMAE_WEIGHT_TOPOLOGY=100 # off by default; its threads and streams are what is to be seen
export NNUNET_TOPOMAE_PRETRAIN_EPOCHS=1 NNUNET_TOPOMAE_FINETUNE_EPOCHS=1 NNUNET_TOPOMAE_VAL_ITERATIONS_PER_EPOCH=2
if [ -n "$dry_run" ]; then
    device=cpu width=32 iterations=1 compile=f sanitise=(env) # which needs a GPU
    export NNUNET_TOPOMAE_PARTNER=unetrpp NNUNET_TOPOMAE_PRESET=tiny NNUNET_TOPOMAE_VIT_STEPS=2 nnUNet_n_proc_DA=1
    export NNUNET_TOPOMAE_TOPOLOGY_MAX_SIDE=12
else
    device=cuda width=128 iterations=30 compile=t
    sanitise=(env TORCH_CUDA_SANITIZER=1 nnUNet_n_proc_DA=0) # it calls CUDA in each process
    "$python" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())' ||
        { echo "PyTorch sees no CUDA device here: --dry-run runs on the CPU" >&2; exit 2; }
fi

# step NAME SECONDS COMMAND...: at most so long, and not beyond the end of this call.
number=0
step() {
    local name limit left status
    number=$((number + 1))
    name=$(printf '%02d_%s%s' "$number" "${dry_run:+dry_}" "$1"); limit=${dry_run:+600}; limit=${limit:-$2}; shift 2
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

# train TRAINER [OPTION...] as nnUNetv2_train, whose program may lie anywhere, with the knobs before it.
train=("$python" -c 'from nnunetv2.run.run_training import run_training_entry as run; run()' 100 3d_fullres 0
    -device "$device" -tr)
if [ -n "$dry_run" ]; then
    tests=(tests/augmentation/test_random_streams.py)
    few=(--partner unetrpp --steps 1 --warm-up 1 --minutes 9) memory=(--presets tiny --patches 32 --batch 1)
    precision=(--preset tiny --patch 32 --steps 2)
else
    tests=(tests/augmentation tests/topology/test_loss.py tests/training/test_prefetch.py -m "not slow")
    few=(--steps 10 --warm-up 5 --minutes 1.8) memory=() precision=()
fi

say "$(date '+%Y-%m-%d %H:%M'), $("$python" -c 'import torch; print(torch.__version__, torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU")')"
if [ -e "$data/Dataset100_Phantom" ]; then bundle=(true); else
    bundle=("$python" benchmarks/gpu_bundle.py "$(dirname "$data")" --width "$width")
    rm -f "$results"/*_data.done
fi
step data 120 "${bundle[@]}"
step pretraining 300 env nnUNet_compile=$compile NNUNET_TOPOMAE_ITERATIONS_PER_EPOCH=$iterations "${train[@]}" TopoMAEPretrainer
pretrained=$(find "$scratch/results" -path '*TopoMAEPretrainer*' -name checkpoint_final.pth 2> /dev/null)
step finetuning 180 env nnUNet_compile=$compile NNUNET_TOPOMAE_ITERATIONS_PER_EPOCH=$iterations \
    NNUNET_TOPOMAE_PRETRAINED="${pretrained:-none}" "${train[@]}" TopoMAEFinetuner
step tests 90 "$python" -m pytest -q -p no:cacheprovider "${tests[@]}"
step streams 60 "${sanitise[@]}" nnUNet_compile=f NNUNET_TOPOMAE_ITERATIONS_PER_EPOCH=2 \
    nnUNet_results="$scratch/sanitiser" "${train[@]}" TopoMAEPretrainer
step step_by_part 120 "$python" benchmarks/training.py 100 --trainers TopoMAEPretrainer --device "$device" \
    "${few[@]}" --rounds 1 --docs "$docs"
step memory 50 "$python" benchmarks/gpu_checks.py --device "$device" memory "${memory[@]}"
step precision 40 "$python" benchmarks/gpu_checks.py --device "$device" precision "${precision[@]}"
step torchrun 60 env nnUNet_compile=f NNUNET_TOPOMAE_ITERATIONS_PER_EPOCH=1 nnUNet_results="$scratch/torchrun" \
    "$python" -m torch.distributed.run --standalone --nproc_per_node 1 -m nnunet_topomae.launch \
    100 3d_fullres 0 -tr TopoMAEPretrainer -device "$device"
echo "Logs and tables: $results"
