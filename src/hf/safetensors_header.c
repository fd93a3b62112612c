/* The JSON header of a safetensors file: parsed in place by a scanner of its own, since the form is fixed (a
 * map of tensors and one map of strings) and general JSON would cost ten times the file in memory and lose
 * 64-bit numbers. Read from the end: am_safetensors_header_parse → parse_header → parse_entry →
 * finish_tensor; then check_tiling. */
#include "hf_internal.h"

#include <stdlib.h>
#include <string.h>

typedef struct cursor {
    char *text; /* text[len] == 0 */
    size_t len, at;
    const char *path;
} cursor;

/* Everything one entry of the header says; begin and end are relative to the data. */
typedef struct entry {
    const char *dtype;
    bool has_shape, has_offsets;
    int rank;
    uint64_t shape[AM_HF_MAX_RANK];
    uint64_t begin, end;
} entry;

size_t am_utf8_valid(const char *s, size_t n)
{
    const unsigned char *p = (const unsigned char *)s;
    size_t i = 0;
    while (i < n) {
        unsigned c = p[i], more = c < 0x80   ? 0
                                  : c < 0xc2 ? 4
                                  : c < 0xe0 ? 1
                                  : c < 0xf0 ? 2
                                  : c < 0xf5 ? 3
                                             : 4;
        if (more == 4 || more >= n - i) return i;
        for (unsigned k = 1; k <= more; k++)
            if ((p[i + k] & 0xc0) != 0x80) return i;
        unsigned second = more > 0 ? p[i + 1] : 0;
        if ((c == 0xe0 && second < 0xa0) || (c == 0xed && second > 0x9f) || (c == 0xf0 && second < 0x90) ||
            (c == 0xf4 && second > 0x8f))
            return i;
        i += more + 1;
    }
    return n;
}

/* ---- the scanner ---- */

static void skip_space(cursor *c)
{
    while (c->at < c->len && strchr(" \t\r\n", c->text[c->at]) != NULL && c->text[c->at] != '\0') c->at++;
}

static bool take(cursor *c, char wanted)
{
    skip_space(c);
    if (c->at >= c->len || c->text[c->at] != wanted) return false;
    c->at++;
    return true;
}

static am_status expect(cursor *c, char wanted, const char *where)
{
    am_status st = AM_OK;
    AM_SAFETENSORS_CHECK(take(c, wanted), HEADER_JSON, "%s: header byte %zu: '%c' expected %s", c->path,
                         c->at, wanted, where);
done:
    return st;
}

static bool hex4(const char *s, uint32_t *out)
{
    *out = 0;
    for (int i = 0; i < 4; i++) {
        char c = s[i];
        int digit = c >= '0' && c <= '9'   ? c - '0'
                    : c >= 'a' && c <= 'f' ? c - 'a' + 10
                    : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                           : -1;
        if (digit < 0) return false; /* the NUL behind the text ends here too */
        *out = *out * 16 + (uint32_t)digit;
    }
    return true;
}

static size_t put_utf8(char *dst, uint32_t u)
{
    size_t n = u < 0x80 ? 1 : u < 0x800 ? 2 : u < 0x10000 ? 3 : 4;
    if (n == 1) {
        dst[0] = (char)u;
        return 1;
    }
    static const unsigned char lead[] = {0, 0, 0xc0, 0xe0, 0xf0};
    for (size_t i = n - 1; i > 0; i--, u >>= 6) dst[i] = (char)(0x80 | (u & 0x3f));
    dst[0] = (char)(lead[n] | u);
    return n;
}

/* \uXXXX at text[from] (behind the backslash), with its second half when it is a surrogate pair.
 * Returns bytes consumed, 0 when wrong; NUL is wrong, since names are C strings. */
static size_t unicode_escape(const char *from, uint32_t *out)
{
    uint32_t low;
    if (!hex4(from + 1, out) || *out == 0) return 0;
    if (*out < 0xd800 || *out > 0xdfff) return 5;
    if (*out > 0xdbff || from[5] != '\\' || from[6] != 'u' || !hex4(from + 7, &low)) return 0;
    if (low < 0xdc00 || low > 0xdfff) return 0;
    *out = 0x10000 + ((*out - 0xd800) << 10) + (low - 0xdc00);
    return 11;
}

/* A string, decoded in place and terminated where its closing quote stood or before. */
static am_status parse_string(cursor *c, const char *where, const char **out)
{
    am_status st = AM_OK;
    AM_TRY(expect(c, '"', where));
    char *dst = c->text + c->at;
    size_t i = c->at;
    *out = dst;
    while (i < c->len && c->text[i] != '"') {
        unsigned char u = (unsigned char)c->text[i];
        AM_SAFETENSORS_CHECK(u >= 0x20, HEADER_JSON,
                             "%s: header byte %zu: a raw control character in a string", c->path, i);
        if (u != '\\') {
            *dst++ = c->text[i++];
            continue;
        }
        static const char plain[] = "\"\\/bfnrt", meant[] = "\"\\/\b\f\n\r\t";
        char kind = c->text[i + 1]; /* the text is NUL-terminated */
        const char *known = kind != '\0' ? strchr(plain, kind) : NULL;
        uint32_t code = 0;
        size_t used = kind == 'u' ? unicode_escape(c->text + i + 1, &code) : 0;
        AM_SAFETENSORS_CHECK(
            known != NULL || used > 0, HEADER_JSON,
            "%s: header byte %zu: an escape sequence that JSON does not have, or that names no character",
            c->path, i);
        if (known != NULL)
            *dst++ = meant[known - plain];
        else
            dst += put_utf8(dst, code);
        i += known != NULL ? 2 : used + 1;
    }
    AM_SAFETENSORS_CHECK(i < c->len, HEADER_JSON, "%s: header byte %zu: a string without an end", c->path,
                         c->at);
    *dst = '\0';
    c->at = i + 1;
done:
    return st;
}

static am_status parse_u64(cursor *c, const char *name, const char *what, uint64_t *out)
{
    am_status st = AM_OK;
    skip_space(c);
    size_t begin = c->at;
    uint64_t v = 0;
    for (; c->at < c->len && c->text[c->at] >= '0' && c->text[c->at] <= '9'; c->at++) {
        bool fits = !__builtin_mul_overflow(v, (uint64_t)10, &v) &&
                    !__builtin_add_overflow(v, (uint64_t)(c->text[c->at] - '0'), &v);
        AM_SAFETENSORS_CHECK(fits, OVERFLOW, "%s: tensor '%s': a number of its %s is beyond 64 bits", c->path,
                             name, what);
    }
    size_t digits = c->at - begin;
    bool ends = c->at >= c->len || strchr(",] \t\r\n", c->text[c->at]) != NULL;
    AM_SAFETENSORS_CHECK(digits > 0 && ends && (digits == 1 || c->text[begin] != '0'), TENSOR_INFO,
                         "%s: tensor '%s': its %s must hold whole numbers from 0 (header byte %zu)", c->path,
                         name, what, begin);
    *out = v;
done:
    return st;
}

/* "[" u64, … "]" of at most `max` numbers */
static am_status parse_numbers(cursor *c, const char *name, const char *what, uint64_t *out, int max,
                               int *count)
{
    am_status st = AM_OK;
    *count = 0;
    AM_SAFETENSORS_CHECK(take(c, '['), TENSOR_INFO,
                         "%s: tensor '%s': its %s must be a list (header byte %zu)", c->path, name, what,
                         c->at);
    if (take(c, ']')) goto done;
    do {
        AM_SAFETENSORS_CHECK(*count < max, RANK, "%s: tensor '%s': its %s has more than %d numbers", c->path,
                             name, what, max);
        AM_TRY(parse_u64(c, name, what, &out[(*count)++]));
    } while (take(c, ','));
    AM_TRY(expect(c, ']', "at the end of a list"));
done:
    return st;
}

/* ---- entries ---- */

static am_status parse_field(cursor *c, const char *name, entry *e)
{
    am_status st = AM_OK;
    const char *key;
    int count;
    uint64_t offsets[2] = {0, 0};
    AM_TRY(parse_string(c, "before a field of a tensor", &key));
    bool is_dtype = strcmp(key, "dtype") == 0, is_shape = strcmp(key, "shape") == 0;
    bool is_offsets = strcmp(key, "data_offsets") == 0;
    AM_SAFETENSORS_CHECK(
        is_dtype || is_shape || is_offsets, TENSOR_INFO,
        "%s: tensor '%s' has the field '%s'; dtype, shape and data_offsets are all that the format knows",
        c->path, name, key);
    bool again =
        (is_dtype && e->dtype != NULL) || (is_shape && e->has_shape) || (is_offsets && e->has_offsets);
    AM_SAFETENSORS_CHECK(!again, DUPLICATE, "%s: tensor '%s' has the field '%s' twice", c->path, name, key);
    AM_TRY(expect(c, ':', "behind a key"));
    skip_space(c);
    if (is_dtype) {
        AM_SAFETENSORS_CHECK(c->text[c->at] == '"', TENSOR_INFO,
                             "%s: tensor '%s': its dtype must be a string", c->path, name);
        AM_TRY(parse_string(c, "before a dtype", &e->dtype));
    } else if (is_shape) {
        AM_TRY(parse_numbers(c, name, key, e->shape, AM_HF_MAX_RANK, &e->rank));
        e->has_shape = true;
    } else {
        AM_TRY(parse_numbers(c, name, key, offsets, 2, &count));
        AM_SAFETENSORS_CHECK(count == 2, TENSOR_INFO,
                             "%s: tensor '%s': data_offsets must be two numbers, begin and end", c->path,
                             name);
        e->begin = offsets[0];
        e->end = offsets[1];
        e->has_offsets = true;
    }
done:
    return st;
}

/* bits of an element; 0: no dtype of safetensors.  *dtype is AM_DTYPE_COUNT for those that am_dtype has not.
 */
static unsigned dtype_bits(const char *name, am_dtype *dtype)
{
    static const struct {
        const char *name;
        unsigned bits;
    } foreign[] = {{"F4", 4}, {"F6_E2M3", 6}, {"F6_E3M2", 6}, {"C64", 64}};
    for (int i = 0; i < AM_DTYPE_COUNT; i++) {
        *dtype = (am_dtype)i;
        if (strcmp(name, am_dtype_name(*dtype)) == 0) return (unsigned)am_dtype_bytes(*dtype) * 8;
    }
    *dtype = AM_DTYPE_COUNT;
    for (size_t i = 0; i < sizeof foreign / sizeof foreign[0]; i++)
        if (strcmp(name, foreign[i].name) == 0) return foreign[i].bits;
    return 0;
}

/* The entry's numbers against one another; t->offset stays relative to the data for now. */
static am_status finish_tensor(const char *path, const entry *e, am_safetensors_tensor *t)
{
    am_status st = AM_OK;
    AM_SAFETENSORS_CHECK(e->dtype != NULL && e->has_shape && e->has_offsets, TENSOR_INFO,
                         "%s: tensor '%s' has no %s", path, t->name,
                         e->dtype == NULL ? "dtype"
                         : !e->has_shape  ? "shape"
                                          : "data_offsets");
    unsigned bits = dtype_bits(e->dtype, &t->dtype);
    AM_SAFETENSORS_CHECK(bits > 0, DTYPE_UNKNOWN,
                         "%s: tensor '%s' has the dtype '%s', which safetensors does not know", path, t->name,
                         e->dtype);
    AM_SAFETENSORS_CHECK(e->begin <= e->end, OFFSET_ORDER,
                         "%s: tensor '%s' begins at byte %" PRIu64
                         " of the data and ends before it, at %" PRIu64,
                         path, t->name, e->begin, e->end);
    uint64_t elements = 1, total_bits;
    bool fits = true;
    t->rank = e->rank;
    for (int i = 0; i < e->rank; i++) {
        fits = fits && e->shape[i] <= INT64_MAX && !__builtin_mul_overflow(elements, e->shape[i], &elements);
        t->shape[i] = (int64_t)e->shape[i];
    }
    fits = fits && !__builtin_mul_overflow(elements, (uint64_t)bits, &total_bits);
    AM_SAFETENSORS_CHECK(fits && e->end <= INT64_MAX, OVERFLOW,
                         "%s: tensor '%s': its shape or its offsets are beyond 64-bit arithmetic", path,
                         t->name);
    AM_SAFETENSORS_CHECK(total_bits % 8 == 0, MISALIGNED,
                         "%s: tensor '%s': %" PRIu64 " elements of %s end within a byte", path, t->name,
                         elements, e->dtype);
    AM_SAFETENSORS_CHECK(e->end - e->begin == total_bits / 8, TENSOR_SIZE,
                         "%s: tensor '%s' has %" PRIu64 " bytes by its data_offsets and %" PRIu64
                         " by its shape and dtype",
                         path, t->name, e->end - e->begin, total_bits / 8);
    AM_SAFETENSORS_CHECK(
        t->dtype != AM_DTYPE_COUNT, DTYPE_UNSUPPORTED,
        "%s: tensor '%s' has the dtype %s, which automodel does not hold; convert it to BF16 first", path,
        t->name, e->dtype);
    t->elements = (int64_t)elements;
    t->bytes = (int64_t)(total_bits / 8);
    t->offset = (int64_t)e->begin;
done:
    return st;
}

static am_status parse_entry(cursor *c, am_safetensors_tensor *t)
{
    am_status st = AM_OK;
    entry e = {0};
    AM_SAFETENSORS_CHECK(take(c, '{'), TENSOR_INFO,
                         "%s: tensor '%s': its entry must be a map (header byte %zu)", c->path, t->name,
                         c->at);
    if (!take(c, '}')) {
        do {
            AM_TRY(parse_field(c, t->name, &e));
        } while (take(c, ','));
        AM_TRY(expect(c, '}', "at the end of a tensor"));
    }
    AM_TRY(finish_tensor(c->path, &e, t));
done:
    return st;
}

static am_status parse_metadata(cursor *c, am_safetensors_header *h)
{
    am_status st = AM_OK;
    am_name_table *keys = NULL;
    size_t capacity = 0;
    int64_t existing;
    AM_SAFETENSORS_CHECK(take(c, '{'), METADATA, "%s: __metadata__ must be a map of strings to strings",
                         c->path);
    if (take(c, '}')) goto done;
    AM_TRY(am_name_table_create(&keys));
    do {
        am_safetensors_pair pair;
        AM_TRY(parse_string(c, "before a key of __metadata__", &pair.key));
        AM_TRY(expect(c, ':', "behind a key of __metadata__"));
        skip_space(c);
        AM_SAFETENSORS_CHECK(c->text[c->at] == '"', METADATA,
                             "%s: __metadata__: the value of '%s' must be a string", c->path, pair.key);
        AM_TRY(parse_string(c, "before a value of __metadata__", &pair.value));
        AM_TRY(am_name_table_insert(keys, pair.key, 0, &existing));
        AM_SAFETENSORS_CHECK(existing < 0, DUPLICATE, "%s: __metadata__ has the key '%s' twice", c->path,
                             pair.key);
        AM_TRY(am_grow(&h->metadata, &capacity, (size_t)h->num_metadata + 1, sizeof *h->metadata));
        h->metadata[h->num_metadata++] = pair;
    } while (take(c, ','));
    AM_TRY(expect(c, '}', "at the end of __metadata__"));
done:
    am_name_table_free(&keys);
    return st;
}

static am_status parse_header(cursor *c, am_safetensors_header *h)
{
    am_status st = AM_OK;
    size_t capacity = 0;
    bool seen_metadata = false;
    int64_t existing;
    AM_SAFETENSORS_CHECK(c->len > 0 && c->text[0] == '{', HEADER_START,
                         "%s: the header does not start with '{': this is no safetensors file", c->path);
    c->at = 1;
    if (!take(c, '}')) {
        do {
            am_safetensors_tensor t = {0};
            AM_TRY(parse_string(c, "before the name of a tensor", &t.name));
            AM_TRY(expect(c, ':', "behind the name of a tensor"));
            if (strcmp(t.name, "__metadata__") == 0) {
                AM_SAFETENSORS_CHECK(!seen_metadata, DUPLICATE, "%s: __metadata__ stands there twice",
                                     c->path);
                seen_metadata = true;
                AM_TRY(parse_metadata(c, h));
                continue;
            }
            AM_TRY(parse_entry(c, &t));
            AM_TRY(am_name_table_insert(h->names, t.name, h->num_tensors, &existing));
            AM_SAFETENSORS_CHECK(existing < 0, DUPLICATE, "%s: the tensor '%s' stands there twice", c->path,
                                 t.name);
            AM_TRY(am_grow(&h->tensors, &capacity, (size_t)h->num_tensors + 1, sizeof *h->tensors));
            h->tensors[h->num_tensors++] = t;
        } while (take(c, ','));
        AM_TRY(expect(c, '}', "at the end of the header"));
    }
    skip_space(c);
    AM_SAFETENSORS_CHECK(c->at == c->len, HEADER_JSON, "%s: header byte %zu: text behind the end of the map",
                         c->path, c->at);
done:
    return st;
}

/* ---- the whole ---- */

static int by_offset(const void *a, const void *b)
{
    const am_safetensors_tensor *x = a, *y = b;
    if (x->offset != y->offset) return x->offset < y->offset ? -1 : 1;
    if (x->bytes != y->bytes) return x->bytes < y->bytes ? -1 : 1; /* empty ones first */
    return strcmp(x->name, y->name);
}

/* Sorted, the tensors must follow one another from the start of the data to the end of the file. */
static am_status check_tiling(const char *path, const am_safetensors_header *h, int64_t data_bytes)
{
    am_status st = AM_OK;
    int64_t end = 0;
    const char *before = "the start of the data";
    for (int64_t i = 0; i < h->num_tensors; i++) {
        const am_safetensors_tensor *t = &h->tensors[i];
        AM_SAFETENSORS_CHECK(t->offset <= end, HOLE,
                             "%s: %" PRId64 " bytes between %s and tensor '%s' belong to no tensor", path,
                             t->offset - end, before, t->name);
        AM_SAFETENSORS_CHECK(t->offset == end, OVERLAP, "%s: tensors '%s' and '%s' share bytes", path, before,
                             t->name);
        end += t->bytes; /* = its end offset, which fits in 63 bits */
        before = t->name;
    }
    AM_SAFETENSORS_CHECK(end <= data_bytes, TRUNCATED,
                         "%s is truncated: its tensors need %" PRId64 " bytes of data, %" PRId64
                         " are there; copy or download it again",
                         path, end, data_bytes);
    AM_SAFETENSORS_CHECK(end == data_bytes, TRAILING, "%s has %" PRId64 " bytes behind its last tensor", path,
                         data_bytes - end);
done:
    return st;
}

static am_status index_sorted(am_safetensors_header *h, int64_t data_start)
{
    am_status st = AM_OK;
    int64_t existing;
    am_name_table_free(&h->names);
    AM_TRY(am_name_table_create(&h->names));
    for (int64_t i = 0; i < h->num_tensors; i++) {
        h->tensors[i].offset += data_start;
        AM_TRY(am_name_table_insert(h->names, h->tensors[i].name, i, &existing));
    }
done:
    return st;
}

am_status am_safetensors_header_parse(char *text, size_t len, int64_t file_bytes, const char *path,
                                      am_safetensors_header *out)
{
    am_status st = AM_OK;
    am_safetensors_header h = {0};
    cursor c = {.text = text, .len = len, .path = path};
    int64_t data_start = 8 + (int64_t)len;
    size_t valid = am_utf8_valid(text, len);
    AM_SAFETENSORS_CHECK(valid == len, HEADER_UTF8, "%s: header byte %zu: not UTF-8", path, valid);
    AM_TRY(am_name_table_create(&h.names));
    AM_TRY(parse_header(&c, &h));
    if (h.num_tensors > 0) qsort(h.tensors, (size_t)h.num_tensors, sizeof *h.tensors, by_offset);
    AM_TRY(check_tiling(path, &h, file_bytes - data_start));
    AM_TRY(index_sorted(&h, data_start));
    *out = h;
    h = (am_safetensors_header){0};
done:
    am_safetensors_header_release(&h);
    return st;
}

void am_safetensors_header_release(am_safetensors_header *h)
{
    am_free(&h->tensors);
    am_free(&h->metadata);
    am_name_table_free(&h->names);
}
