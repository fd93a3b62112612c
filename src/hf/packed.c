/* packed: tensors that a checkpoint stores in 8 or 4 bits beside their scales, read as the bf16 tensors they stand for.
 * Two formats, both told by config.json's quantization_config:
 *   fp8    NAME (F8_E4M3 [.., R, C]) and NAME_scale_inv, one scale a block of R and C (or one for all): value = q · scale
 *   mxfp4  NAME_blocks (U8 [E, R, C/32, 16], two numbers a byte, the low half first) and NAME_scales (U8 [E, R, C/32], powers of two
 *          biased by 127): NAME, which transformers holds as [E, C, R]
 * The pair leaves the list of tensors and one tensor of the plain name takes its place.  Values are rounded to bf16, so
 * that a model, its export and what is loaded from that are the same numbers. */
#include "hf_internal.h"

#include <math.h>
#include <string.h>

enum { SPAN = 4096 /* elements converted at a time */, MXFP4_GROUP = 32, MXFP4_BYTES = 16 };

typedef enum packed_kind { PACKED_FP8, PACKED_MXFP4 } packed_kind;

struct am_hf_packed {
    am_safetensors_tensor logical; /* what everybody else sees: BF16 */
    const am_safetensors_tensor *data, *scale;
    packed_kind kind;
    int64_t block_rows, block_cols; /* FP8 */
    char *name;
};

/* ---- finding the pairs ---- */

static bool ends_with(const char *s, const char *end)
{
    size_t n = strlen(s), m = strlen(end);
    return n > m && strcmp(s + n - m, end) == 0;
}

static am_status companion(const am_hf_model *m, const char *stem, size_t n, const char *suffix,
                           const am_safetensors_tensor **out)
{
    am_status st = AM_OK;
    am_str name = {0};
    AM_TRY(am_str_printf(&name, "%.*s%s", (int)n, stem, suffix));
    *out = am_hf_model_find(m, name.s);
done:
    am_str_release(&name);
    return st;
}

/* rows and columns of the matrices of a tensor, and how many matrices */
static void matrix_shape(const am_safetensors_tensor *t, int64_t *count, int64_t *rows, int64_t *cols)
{
    *cols = t->rank > 0 ? t->shape[t->rank - 1] : 1;
    *rows = t->rank > 1 ? t->shape[t->rank - 2] : 1;
    *count = *rows * *cols > 0 ? t->elements / (*rows * *cols) : 0;
}

static am_status block_size(const am_hf_model *m, int64_t *rows, int64_t *cols)
{
    am_status st = AM_OK;
    const json_t *b = am_json_at(m->config, "quantization_config.weight_block_size");
    *rows = *cols = 128;
    if (b == NULL || json_is_null(b)) goto done;
    AM_CHECK(json_is_array(b) && json_array_size(b) == 2 && am_json_integer(json_array_get(b, 0), rows) &&
                 am_json_integer(json_array_get(b, 1), cols) && *rows > 0 && *cols > 0,
             AM_ERR_MODEL, "%s: quantization_config.weight_block_size must be two positive numbers, [128, 128]",
             m->config_path);
done:
    return st;
}

static am_status set_fp8(const am_hf_model *m, am_hf_packed *p)
{
    am_status st = AM_OK;
    int64_t n, r, c, sn, sr, sc;
    AM_TRY(block_size(m, &p->block_rows, &p->block_cols));
    matrix_shape(p->data, &n, &r, &c);
    matrix_shape(p->scale, &sn, &sr, &sc);
    bool whole = p->scale->elements == 1;
    bool blocks = sn == n && sr == (r + p->block_rows - 1) / p->block_rows &&
                  sc == (c + p->block_cols - 1) / p->block_cols;
    AM_CHECK(whole || blocks, AM_ERR_MODEL,
             "%s: %s holds %" PRId64 " scales; its tensor of %" PRId64 " × %" PRId64 " in blocks of %" PRId64
             " × %" PRId64 " has %" PRId64,
             m->dir, p->scale->name, p->scale->elements, r, c, p->block_rows, p->block_cols,
             n * ((r + p->block_rows - 1) / p->block_rows) * ((c + p->block_cols - 1) / p->block_cols));
    if (whole) p->block_rows = p->block_cols = INT64_MAX / 2;
    AM_CHECK(am_dtype_is_float(p->scale->dtype), AM_ERR_MODEL, "%s: %s holds %s; scales are floating", m->dir,
             p->scale->name, am_dtype_name(p->scale->dtype));
    p->kind = PACKED_FP8;
done:
    return st;
}

static am_status set_mxfp4(const am_hf_model *m, am_hf_packed *p)
{
    am_status st = AM_OK;
    const am_safetensors_tensor *d = p->data, *s = p->scale;
    bool fits = d->rank == 4 && d->dtype == AM_U8 && d->shape[3] == MXFP4_BYTES && s->rank == 3 &&
                s->dtype == AM_U8;
    for (int i = 0; fits && i < 3; i++) fits = d->shape[i] == s->shape[i];
    AM_CHECK(fits, AM_ERR_MODEL,
             "%s: %s and %s are not MXFP4: U8 blocks [experts, rows, groups, 16] and U8 scales [experts, rows, groups]",
             m->dir, d->name, s->name);
    p->kind = PACKED_MXFP4;
    p->logical.rank = 3;
    p->logical.shape[0] = d->shape[0];
    p->logical.shape[1] = d->shape[2] * MXFP4_GROUP;
    p->logical.shape[2] = d->shape[1];
    p->logical.elements = d->elements * 2;
done:
    return st;
}

/* Is t the data of a pair?  *scale is then its companion. */
static am_status find_pair(const am_hf_model *m, const am_safetensors_tensor *t, const char **plain_end,
                           const am_safetensors_tensor **scale)
{
    am_status st = AM_OK;
    size_t n = strlen(t->name);
    *plain_end = t->name + n;
    *scale = NULL;
    if (t->dtype == AM_F8_E4M3) {
        AM_TRY(companion(m, t->name, n, "_scale_inv", scale));
    } else if (ends_with(t->name, "_blocks")) {
        *plain_end -= strlen("_blocks");
        AM_TRY(companion(m, t->name, (size_t)(*plain_end - t->name), "_scales", scale));
    }
done:
    return st;
}

static am_status add_packed(am_hf_model *m, const am_safetensors_tensor *t, const char *plain_end,
                            const am_safetensors_tensor *scale)
{
    am_status st = AM_OK;
    am_hf_packed *p = &m->packed[m->num_packed];
    *p = (am_hf_packed){.logical = *t, .data = t, .scale = scale};
    m->num_packed++;
    AM_TRY(am_strndup(t->name, (size_t)(plain_end - t->name), &p->name));
    if (t->dtype == AM_F8_E4M3)
        AM_TRY(set_fp8(m, p));
    else
        AM_TRY(set_mxfp4(m, p));
    p->logical.name = p->name;
    p->logical.dtype = AM_BF16;
    p->logical.bytes = p->logical.elements * 2;
done:
    return st;
}

static am_status check_method(const am_hf_model *m, bool *packed)
{
    am_status st = AM_OK;
    const json_t *q = json_object_get(m->config, "quantization_config");
    *packed = q != NULL && !json_is_null(q);
    if (!*packed) goto done;
    const char *method = json_string_value(json_object_get(q, "quant_method"));
    AM_CHECK(method != NULL, AM_ERR_MODEL, "%s: quantization_config names no quant_method", m->config_path);
    AM_CHECK(strcmp(method, "fp8") == 0 || strcmp(method, "mxfp4") == 0, AM_ERR_MODEL,
             "%s: weights quantised as \"%s\" cannot be read; fp8 (with blocks of scales) and mxfp4 can. Give the model's "
             "unquantised weights",
             m->config_path, method);
done:
    return st;
}

am_status am_hf_packed_collect(am_hf_model *m)
{
    am_status st = AM_OK;
    const am_safetensors_tensor **kept = NULL, *scale;
    const char *end;
    int64_t n = 0, existing;
    bool packed;
    am_name_table *scales = NULL, *names = NULL;
    AM_TRY(check_method(m, &packed));
    if (!packed || m->num_tensors == 0) goto done;
    AM_TRY(am_calloc((size_t)m->num_tensors, sizeof *m->packed, &m->packed));
    AM_TRY(am_calloc((size_t)m->num_tensors + 1, sizeof *kept, &kept));
    AM_TRY(am_name_table_create(&scales));
    AM_TRY(am_name_table_create(&names));
    for (int64_t i = 0; i < m->num_tensors; i++) {
        AM_TRY(find_pair(m, m->tensors[i], &end, &scale));
        if (scale == NULL) continue;
        AM_TRY(add_packed(m, m->tensors[i], end, scale));
        AM_TRY(am_name_table_insert(scales, scale->name, 1, &existing));
        AM_TRY(am_name_table_insert(scales, m->tensors[i]->name, (int64_t)m->num_packed + 1, &existing));
    }
    for (int64_t i = 0; i < m->num_tensors; i++) {
        int64_t which = am_name_table_find(scales, m->tensors[i]->name);
        if (which == 1) continue;
        const am_safetensors_tensor *t = which > 1 ? &m->packed[which - 2].logical : m->tensors[i];
        AM_TRY(am_name_table_insert(names, t->name, n, &existing));
        AM_CHECK(existing < 0, AM_ERR_MODEL, "%s: the tensor '%s' is there packed and plain", m->dir, t->name);
        kept[n++] = t;
    }
    am_free(&m->tensors);
    am_name_table_free(&m->names);
    m->tensors = kept;
    m->num_tensors = n;
    m->names = names;
    kept = NULL;
    names = NULL;
done:
    am_free(&kept);
    am_name_table_free(&scales);
    am_name_table_free(&names);
    return st;
}

void am_hf_packed_free(am_hf_model *m)
{
    for (size_t i = 0; i < m->num_packed; i++) am_free(&m->packed[i].name);
    am_free(&m->packed);
    m->num_packed = 0;
}

const am_hf_packed *am_hf_packed_of(const am_hf_model *m, const am_safetensors_tensor *t)
{
    /* logical tensors stand first in the entries of one array */
    const char *at = (const char *)t, *begin = (const char *)m->packed;
    return m->num_packed > 0 && at >= begin && at < (const char *)(m->packed + m->num_packed)
               ? (const am_hf_packed *)at
               : NULL;
}

/* ---- reading ---- */

/* n values of fp8 from element `begin`, all in one row and one block of columns at most SPAN long */
static am_status fp8_span(const am_hf_model *m, const am_hf_packed *p, int64_t begin, int64_t n, float *out)
{
    am_status st = AM_OK;
    int64_t count, rows, cols, sn, sr, sc;
    float scale[SPAN];
    matrix_shape(p->data, &count, &rows, &cols);
    matrix_shape(p->scale, &sn, &sr, &sc);
    int64_t row = begin / cols, col = begin % cols, matrix = row / rows;
    int64_t block_row = row % rows / p->block_rows, first = col / p->block_cols;
    int64_t last = (col + n - 1) / p->block_cols;
    const am_safetensors *file = m->files[p->scale->file];
    AM_TRY(am_safetensors_read(file, p->scale, p->scale->elements == 1 ? 0 : (matrix * sr + block_row) * sc + first,
                               last - first + 1, scale, AM_F32));
    AM_TRY(am_safetensors_read(m->files[p->data->file], p->data, begin, n, out, AM_F32));
    for (int64_t i = 0; i < n; i++) out[i] *= scale[(col + i) / p->block_cols - first];
done:
    return st;
}

static am_status read_fp8(const am_hf_model *m, const am_hf_packed *p, int64_t begin, int64_t count, char *dst,
                          am_dtype dtype)
{
    am_status st = AM_OK;
    float wide[SPAN];
    uint16_t low[SPAN];
    int64_t cols = p->data->rank > 0 ? p->data->shape[p->data->rank - 1] : 1;
    for (int64_t n; count > 0; begin += n, count -= n) {
        n = am_min_i64(am_min_i64(count, SPAN), cols - begin % cols);
        AM_TRY(fp8_span(m, p, begin, n, wide));
        AM_TRY(am_convert(wide, AM_F32, low, AM_BF16, n));
        AM_TRY(am_convert(low, AM_BF16, dst, dtype, n));
        dst += (size_t)n * am_dtype_bytes(dtype);
    }
done:
    return st;
}

/* E2M1 (OCP Microscaling Formats 1.0): sign, two bits of exponent, one of mantissa */
static float fp4_value(int nibble)
{
    static const float magnitude[8] = {0, 0.5f, 1, 1.5f, 2, 3, 4, 6};
    return nibble & 8 ? -magnitude[nibble & 7] : magnitude[nibble & 7];
}

/* Rows k0 ≤ k < k1 of the [C, R] matrix of expert e: column by column of it, which is what the file holds in a row. */
static am_status mxfp4_rows(const am_hf_model *m, const am_hf_packed *p, int64_t e, int64_t k0, int64_t k1,
                            uint16_t *out)
{
    am_status st = AM_OK;
    int64_t rows = p->data->shape[1], groups = p->data->shape[2];
    int64_t g0 = k0 / MXFP4_GROUP, g1 = (k1 - 1) / MXFP4_GROUP + 1, n = g1 - g0;
    uint8_t *bytes = NULL, *scales = NULL;
    AM_TRY(am_calloc((size_t)n, MXFP4_BYTES, &bytes));
    AM_TRY(am_calloc((size_t)n, 1, &scales));
    for (int64_t r = 0; r < rows; r++) {
        int64_t at = (e * rows + r) * groups + g0;
        AM_TRY(am_safetensors_read(m->files[p->data->file], p->data, at * MXFP4_BYTES, n * MXFP4_BYTES, bytes, AM_U8));
        AM_TRY(am_safetensors_read(m->files[p->scale->file], p->scale, at, n, scales, AM_U8));
        for (int64_t k = k0; k < k1; k++) {
            int64_t g = k / MXFP4_GROUP - g0, j = k % MXFP4_GROUP;
            int nibble = bytes[g * MXFP4_BYTES + j / 2] >> (j % 2 ? 4 : 0) & 15;
            out[(k - k0) * rows + r] = am_f32_to_bf16(ldexpf(fp4_value(nibble), (int)scales[g] - 127));
        }
    }
done:
    am_free(&bytes);
    am_free(&scales);
    return st;
}

static am_status read_mxfp4(const am_hf_model *m, const am_hf_packed *p, int64_t begin, int64_t count, char *dst,
                            am_dtype dtype)
{
    am_status st = AM_OK;
    int64_t width = p->logical.shape[2], depth = p->logical.shape[1];
    uint16_t *block = NULL;
    int64_t most = am_max_i64(1, am_min_i64(depth, (1 << 20) / am_max_i64(width, 1)));
    AM_TRY(am_calloc((size_t)(most * width), sizeof *block, &block));
    while (count > 0) {
        int64_t row = begin / width, e = row / depth, k0 = row % depth, from = begin % width;
        int64_t k1 = am_min_i64(am_min_i64(depth, k0 + most), k0 + (from + count + width - 1) / width);
        int64_t n = am_min_i64(count, (k1 - k0) * width - from);
        AM_TRY(mxfp4_rows(m, p, e, k0, k1, block));
        AM_TRY(am_convert(block + from, AM_BF16, dst, dtype, n));
        dst += (size_t)n * am_dtype_bytes(dtype);
        begin += n;
        count -= n;
    }
done:
    am_free(&block);
    return st;
}

am_status am_hf_packed_read(const am_hf_model *m, const am_hf_packed *p, int64_t begin, int64_t count, void *dst,
                            am_dtype dtype)
{
    am_status st = AM_OK;
    AM_SAFETENSORS_CHECK(begin >= 0 && count >= 0 && begin <= p->logical.elements - count, SLICE,
                         "%s: elements %" PRId64 " to %" PRId64 " were asked for of %s, which has %" PRId64, m->dir,
                         begin, begin + count, p->name, p->logical.elements);
    AM_SAFETENSORS_CHECK(am_dtype_is_float(dtype), CONVERT, "%s: %s is read as a floating dtype, not as %s", m->dir,
                         p->name, am_dtype_name(dtype));
    if (p->kind == PACKED_FP8)
        AM_TRY(read_fp8(m, p, begin, count, dst, dtype));
    else
        AM_TRY(read_mxfp4(m, p, begin, count, dst, dtype));
done:
    return st;
}
