/* init_weights.c: Box–Muller over counter-based numbers, keyed by the parameter's name and the element's global index. */
#include "train/init_weights.h"

#include <math.h>
#include <string.h>

static double normal(uint64_t seed, uint64_t stream, int64_t i)
{
    uint64_t a = am_random_u64(seed, stream, (uint64_t)i * 2), b = am_random_u64(seed, stream, (uint64_t)i * 2 + 1);
    double u = ((double)(a >> 11) + 1) * 0x1p-53, v = (double)(b >> 11) * 0x1p-53;
    return sqrt(-2 * log(u)) * cos(2 * 3.14159265358979323846 * v);
}

static double weight(const am_param *p, uint64_t seed, uint64_t stream, int64_t i, double std)
{
    const char *name = am_param_disk_name(p);
    size_t n = strlen(name);
    if (n > 5 && (strcmp(name + n - 5, ".bias") == 0 || strcmp(name + n - 5, "_bias") == 0)) return 0;
    return p->rank == 1 ? 1 : std * normal(seed, stream, i);
}

static am_status init_entry(am_exec *e, const am_program *p, int unit, const am_unit_entry *entry, uint64_t seed, double std)
{
    am_status st = AM_OK;
    enum { CHUNK = 4096 };
    double values[CHUNK], raw[CHUNK];
    const am_unit *u = &p->store.unit[unit];
    const am_param *param = am_graph_param_at(p->graph, entry->param);
    uint64_t stream = am_hash64(param->name, strlen(param->name), 3);
    int64_t begin = am_max_i64(entry->offset, u->shard_begin), end = am_min_i64(entry->offset + entry->count, u->shard_begin + u->shard_elements);
    for (int64_t at = begin; at < end;) {
        int64_t n = am_min_i64(CHUNK, end - at);
        for (int64_t i = 0; i < n; i++) values[i] = weight(param, seed, stream, at - entry->offset + i, std);
        AM_TRY(am_convert(values, AM_F64, raw, p->store.dtype, n));
        AM_TRY(am_exec_write_slot(e, unit, 0, at - u->shard_begin, n, raw));
        at += n;
    }
done:
    return st;
}

am_status am_init_weights(am_exec *e, const am_program *p, uint64_t seed, double std)
{
    am_status st = AM_OK;
    for (int u = 0; u < p->store.num_units; u++)
        for (int k = 0; k < p->store.unit[u].num_entries; k++) AM_TRY(init_entry(e, p, u, &p->store.unit[u].entry[k], seed, std));
done:
    return st;
}
