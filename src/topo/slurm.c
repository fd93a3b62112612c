/* slurm: what the environment says about the batch job this process belongs to.  Slurm's manual (sbatch, srun: OUTPUT
 * ENVIRONMENT VARIABLES) is the source of every name here. */
#include "topo_internal.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

am_status am_topo_allocation_read(am_topo_allocation *out)
{
    am_status st = AM_OK;
    am_topo_allocation a = {0};
    if (gethostname(a.node, sizeof a.node - 1) != 0) a.node[0] = '\0';
    *out = a;
    return st;
}
