#!/bin/bash
# Llama 3.x 70B, full fine-tuning: slurm/sft.sh with the recipe configs/llama3_70b_sft.yaml and an allocation that holds it.
#
#     sbatch slurm/llama70b_sft.sh --dry-run     # what a rank will take, in the allocation that it will have; no step
#     sbatch slurm/llama70b_sft.sh               # after naming weights and data in the recipe (or as arguments)
#
#SBATCH --job-name=llama70b       # its name in squeue and in the name of the output file
#SBATCH --nodes=8                 # 8 nodes of 8 ranks: a 64th of weights, gradients and AdamW's states on each rank
#SBATCH --ntasks-per-node=8       # ranks on each
#SBATCH --cpus-per-task=8         # cores of a rank
#SBATCH --mem=480G                # of a node; the check says what the ranks take of it
#SBATCH --time=24:00:00           # after which Slurm ends it …
#SBATCH --signal=B:USR1@900       # … and 900 s before that tells this script: a checkpoint is 840 GB
#SBATCH --requeue                 # allows Slurm (preemption, a dead node) and this script to queue the job again
#SBATCH --open-mode=append        # what it prints then comes after what it printed before
#SBATCH --output=%x-%j.out        # %x name, %j job (the same after a requeue); the folder must exist

CONFIG=${CONFIG:-configs/llama3_70b_sft.yaml}
for dir in "${SLURM_SUBMIT_DIR:-.}/slurm" "${AUTOMODEL_SLURM:-}"; do # Slurm runs a copy of this file: $0 is no help
    [ -e "$dir/sft.sh" ] && . "$dir/sft.sh"
done
echo "llama70b_sft.sh: no slurm/sft.sh in ${SLURM_SUBMIT_DIR:-.}: sbatch from the folder that has it, or module load automodel" >&2
exit 4
