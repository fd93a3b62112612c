#!/bin/bash
# Fine-tuning as a batch job: as many ranks as tasks, over the nodes of the allocation.
#
#     module load automodel
#     CONFIG=my.yaml sbatch [options of sbatch] slurm/sft.sh [--section.key=value …]
#
# It checks recipe and memory before any rank starts, resumes by itself, and after a signal goes back into the queue.
# The lines below are this script's defaults; an option of sbatch on the command line wins over them.  docs/slurm.md says more.
#
#SBATCH --job-name=sft            # its name in squeue and in the name of the output file
#SBATCH --nodes=2                 # nodes
#SBATCH --ntasks-per-node=1       # ranks on each; one a NUMA domain is a good start
#SBATCH --exclusive               # whole nodes: the ranks divide all their cores (with --cpus-per-task=N: N each)
#SBATCH --mem=0                   # all of their memory
#SBATCH --time=24:00:00           # after which Slurm ends it …
#SBATCH --signal=B:USR1@300       # … and 300 s (up to 360) before that tells this script, which asks the ranks to save: more than a checkpoint takes
#SBATCH --requeue                 # allows Slurm (preemption, a dead node) and this script to queue the job again
#SBATCH --open-mode=append        # what it prints then comes after what it printed before
#SBATCH --output=%x-%j.out        # %x name, %j job (the same after a requeue); the folder must exist
#
# CONFIG        the recipe [configs/smollm2_foldoc_sft.yaml]
# AM_LAUNCHER   srun or mpirun [srun where this Slurm has the pmix plugin, else mpirun]
# In the arguments %j becomes the job's number, %a the task's of an array (sbatch --array=0-4 … --run.dir=runs/sweep_%a --rng.seed=%a).
# With --dry-run among them the job ends after the check.
# Exit codes: automodel's (automodel --help).  After 6, interrupted with a committed checkpoint, the job is requeued.
set -uo pipefail

say() { echo "sft.sh: $*" >&2; }
die() { say "${*:2}"; exit "$1"; }

# After exit code 6, or a signal before there was anything to save.
requeue() {
    local state
    state=$(squeue -h -j "$SLURM_JOB_ID" -o %T)
    [ "$state" = RUNNING ] || die 6 "the job is $state, not requeued; sbatch the same again to go on"
    say "back into the queue"
    scontrol requeue "$SLURM_JOB_ID" || die 6 "it could not be requeued; sbatch the same again to go on"
    exit 6
}

# Slurm tells this script (--signal=B:), and this script the ranks: by SIGUSR1 always, since mpirun kills them on SIGTERM.
asked=no
step=
on_signal() {
    asked=yes
    interrupted=yes
    say "a signal came: asking the ranks to save"
    [ -z "$step" ] || while kill -USR1 "$step" 2>/dev/null; do sleep 10; done & # again, since srun drops one while it starts them
}
trap on_signal USR1 TERM

[ -n "${SLURM_JOB_ID:-}" ] || die 2 "this is a batch script: CONFIG=recipe.yaml sbatch $0 [--section.key=value …]"
config=${CONFIG:-configs/smollm2_foldoc_sft.yaml}
PATH=$PATH:$SLURM_SUBMIT_DIR/build/release # a source tree, where no module is loaded
command -v automodel >/dev/null || die 4 "there is no automodel in PATH on ${SLURMD_NODENAME:-$(hostname)}: module load automodel before sbatch"

unset "${!SLURM_STEP@}" # sbatch from a shell that srun started hands that step's variables on

arguments=()
dry_run=no
for a in "$@"; do
    a=${a//%a/${SLURM_ARRAY_TASK_ID:-0}}
    [ "$a" = --dry-run ] && dry_run=yes || arguments+=("${a//%j/$SLURM_JOB_ID}")
done

# The largest (sort -n: smallest) of Slurm's numbers a node, "2(x3),1".
each_node() { tr ',' '\n' <<<"$1" | sed 's/(.*//' | sort "$2" | head -n 1; }
ranks_per_node=1 # without any --ntasks, as srun understands that; Slurm's own list then counts CPUs
[ -z "${SLURM_NTASKS:-}" ] || ranks_per_node=$(each_node "$SLURM_TASKS_PER_NODE" -nr)
cpus=${SLURM_CPUS_PER_TASK:-$(($(each_node "$SLURM_JOB_CPUS_PER_NODE" -n) / ranks_per_node))}
ranks=${SLURM_NTASKS:-$((SLURM_JOB_NUM_NODES * ranks_per_node))}
say "job $SLURM_JOB_ID, start $((1 + ${SLURM_RESTART_COUNT:-0})): $ranks ranks of $cpus CPUs on $SLURM_JOB_NODELIST, $config ${arguments[*]:-}"

# Recipe, model and memory against this allocation; the reasons for a refusal stay the same however often it is queued.
automodel train "$config" --dry-run "${arguments[@]}" || exit
[ $dry_run = no ] || exit 0

plugins=$(srun --mpi=list 2>&1)
launcher=${AM_LAUNCHER:-$(grep -qw pmix <<<"$plugins" && echo srun || echo mpirun)}
case $launcher in
    srun)
        # Slurm does not hand sbatch's --cpus-per-task on to srun.  Ranks end together, so that
        # five seconds after the first one the others are not coming: it, or its node, has died.
        start=(srun --mpi=pmix --ntasks="$ranks" --cpus-per-task="$cpus" --wait=5)
        # A step that was killed can leave Slurm's pmix socket on its node, and no step of the same number starts there
        # again ("Address already in use" in slurmd's log): each start of a job takes the next number.
        for ((i = 0; i < ${SLURM_RESTART_COUNT:-0}; i++)); do
            srun --mpi=none --nodes=1 --ntasks=1 --overlap --mem=0 true || die 4 "srun starts no step in job $SLURM_JOB_ID"
        done
        ;;
    mpirun)
        command -v mpirun >/dev/null ||
            die 4 "this Slurm has no pmix plugin (srun --mpi=list: $(tr '\n\t' '  ' <<<"$plugins")), and there is no mpirun in PATH: load the MPI module that automodel was built with"
        [ -n "${AM_LAUNCHER:-}" ] || say "this Slurm has no pmix plugin: starting the ranks with mpirun inside the allocation"
        start=(mpirun -np "$ranks" --bind-to none) # automodel binds them itself
        ;;
    *) die 2 "AM_LAUNCHER is srun or mpirun, not $launcher" ;;
esac

[ $asked = no ] || requeue
"${start[@]}" automodel train "$config" "${arguments[@]}" &
step=$!
code=127
interrupted=yes
while [ $interrupted = yes ]; do # a signal ends bash's wait
    interrupted=no
    before=$code
    wait $step
    code=$?
done
[ $code != 127 ] || code=$before # waited for already, when the signal came

case $code in
    6) requeue ;;
    138 | 143) requeue ;; # SIGUSR1 or SIGTERM, before the ranks were ready for it: there is nothing to save
    [0-57]) exit "$code" ;;
    134 | 135 | 136 | 139) die 1 "a rank crashed (exit code $code): report what it printed; sbatch the same again goes on from the last checkpoint" ;;
    *) die 4 "a rank or its node was killed (exit code $code), often for memory: sbatch the same again goes on from the last checkpoint" ;;
esac
