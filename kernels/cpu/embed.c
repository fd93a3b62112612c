/* embed: rows of the embedding table by token id, and the gradient of the table.  embed_dw is cut by columns,
 * so that a row's contributions are added in the order of the tokens by one thread. */
#include "kernels_cpu.h"

#include <string.h>

#define AM_BODY "embed.inc"
#include "kernels_cpu_each.h"

AM_CPU_RANGES(zero_table);
AM_CPU_RANGES(embed_dw);

static am_status check_ids(const am_kernel_call *c, const char *op, const am_tensor *ids, int64_t vocabulary)
{
    am_status st = AM_OK;
    const int32_t *id = ids->data;
    int64_t tokens = am_tensor_elements(ids), offset = c->attrs->offset;
    for (int64_t t = 0; t < tokens; t++)
        AM_CHECK(id[t] + offset >= 0 && id[t] + offset < vocabulary, AM_ERR_DATA,
                 "kernel %s: token %lld has id %d, the embedding table has rows 0 to %lld; were the data "
                 "made with another "
                 "tokenizer?",
                 op, (long long)t, id[t], (long long)vocabulary - 1);
done:
    return st;
}

static void copy_rows(const am_kernel_call *c, int64_t begin, int64_t end)
{
    const int32_t *ids = c->in[0].data;
    const int64_t d = c->in[1].dim[1], offset = c->attrs->offset;
    const size_t from = (size_t)d * am_dtype_bytes(c->in[1].dtype), to = (size_t)d * am_dtype_bytes(c->out[0].dtype);
    for (int64_t t = begin; t < end; t++) {
        const char *row = (const char *)c->in[1].data + (size_t)(ids[t] + offset) * from;
        char *y = (char *)c->out[0].data + (size_t)t * to;
        if (from == to) memcpy(y, row, to);
        else
            for (int64_t i = 0; i < d; i++) ((uint16_t *)y)[i] = am_f32_to_bf16(((const float *)row)[i]);
    }
}

static am_status run_embed(const am_kernel_call *c, am_dtype real)
{
    am_status st = AM_OK;
    am_cpu_dims dims;
    AM_TRY(am_cpu_check(c, "embed", "ids:i[N] table:p[V,D] > y:r[N,D]", real, &dims));
    AM_TRY(check_ids(c, "embed", &c->in[0], dims.of['V']));
    am_cpu_for(c, dims.of['N'], 1, 2 * dims.of['D'] * (int64_t)am_dtype_bytes(real), copy_rows);
done:
    return st;
}

static am_status run_embed_dw(const am_kernel_call *c, am_dtype real)
{
    am_status st = AM_OK;
    am_cpu_dims dims;
    AM_TRY(am_cpu_check(c, "embed_dw", "dy:r[N,D] ids:i[N] > dtable:w[V,D] +", real, &dims));
    AM_TRY(check_ids(c, "embed_dw", &c->in[1], dims.of['V']));
    am_cpu_for2(c, dims.of['V'], 1, dims.of['D'] * (int64_t)am_dtype_bytes(am_cpu_wide(real)),
                am_cpu_pick(zero_table_ranges, real), dims.of['D'], 16, am_cpu_pick(embed_dw_ranges, real));
done:
    return st;
}

AM_CPU_ROW(embed, run_embed, NULL);
AM_CPU_ROW(embed_dw, run_embed_dw, NULL);
