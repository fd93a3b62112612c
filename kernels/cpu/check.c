/* check: the operands of a call against a signature such as "ids:i[N] table:r[V,D] > y:r[N,D]"
 * (kernels_cpu.h). */
#include "kernels_cpu.h"

#include <string.h>

typedef struct operand { /* one word of the signature */
    const char *name, *shape;
    int name_len, letters;
    char type;
    bool optional;
} operand;

/* Reads the next operand at *s; false at the end of the signature or at its '>' or '+'. */
static bool next_operand(const char **s, operand *o)
{
    const char *p = *s;
    while (*p == ' ') p++;
    *s = p;
    if (*p == '\0' || *p == '>' || *p == '+') return false;
    o->name = p;
    p = strchr(p, ':');
    o->name_len = (int)(p - o->name);
    o->type = p[1];
    o->shape = p + 3; /* behind the '[' */
    p = strchr(p, ']');
    o->letters = (int)(p - o->shape + 1) / 2;
    o->optional = p[1] == '?';
    *s = p + 1 + o->optional;
    return true;
}

static bool dtype_fits(char type, am_dtype t, am_dtype real)
{
    switch (type) {
    case 'r':
        return t == real;
    case 'p':
        return t == real || t == am_cpu_wide(real);
    case 'w':
        return t == am_cpu_wide(real);
    case 'i':
        return t == AM_I32;
    case 'd':
        return t == AM_F64;
    default:
        return true;
    }
}

static void print_dims(const am_tensor *t, char *out, size_t size)
{
    size_t at = 0;
    out[0] = '\0';
    for (int i = 0; i < t->rank && at < size; i++) {
        int n = snprintf(out + at, size - at, "%s%lld", i ? "," : "", (long long)t->dim[i]);
        at += n > 0 ? (size_t)n : 0;
    }
}

/* The sizes of t as the operand's letters see them; false when the rank does not allow it. */
static bool fold_dims(const operand *o, const am_tensor *t, int64_t out[AM_MAX_RANK])
{
    int n = o->letters;
    bool tail = o->shape[2 * (n - 1)] == '.';
    if (t->rank < 0 || t->rank > AM_MAX_RANK || t->rank < n - tail) return false;
    for (int i = 0; i < n; i++) out[i] = 1;
    for (int i = 0; i < t->rank; i++) {
        int to = tail ? (i < n - 1 ? i : n - 1) : (i - (t->rank - n) < 0 ? 0 : i - (t->rank - n));
        if (t->dim[i] < 0) return false;
        out[to] *= t->dim[i];
    }
    return true;
}

static am_status check_operand(const am_tensor *t, const char *op, const operand *o, am_dtype real,
                               am_cpu_dims *dims)
{
    am_status st = AM_OK;
    char got[96];
    int64_t size[AM_MAX_RANK];
    print_dims(t, got, sizeof got);
    AM_CHECK(dtype_fits(o->type, t->dtype, real), AM_ERR_SHAPE,
             "kernel %s: operand %.*s has dtype %s, which this %s kernel does not take", op, o->name_len,
             o->name, am_dtype_name(t->dtype), am_dtype_name(real));
    AM_CHECK(fold_dims(o, t, size), AM_ERR_SHAPE, "kernel %s: operand %.*s has shape [%s], expected [%.*s]",
             op, o->name_len, o->name, got, 2 * o->letters - 1, o->shape);
    int64_t elements = 1;
    for (int i = 0; i < o->letters; i++) {
        int64_t *bound = &dims->of[(unsigned char)o->shape[2 * i] & 127];
        if (*bound < 0) *bound = size[i];
        AM_CHECK(*bound == size[i], AM_ERR_SHAPE,
                 "kernel %s: operand %.*s has shape [%s], expected [%.*s], where %c is %lld by an operand "
                 "before it",
                 op, o->name_len, o->name, got, 2 * o->letters - 1, o->shape, o->shape[2 * i],
                 (long long)*bound);
        elements *= size[i];
    }
    AM_CHECK(t->data || elements == 0, AM_ERR_INTERNAL, "kernel %s: operand %.*s has no memory", op,
             o->name_len, o->name);
done:
    return st;
}

am_status am_cpu_check(const am_kernel_call *call, const char *op, const char *signature, am_dtype real,
                       am_cpu_dims *dims)
{
    am_status st = AM_OK;
    memset(dims->of, -1, sizeof dims->of); /* all sizes -1: not bound */
    const char *s = signature;
    bool may_accumulate = false;
    for (int side = 0; side < 2; side++) {
        const am_tensor *tensors = side ? call->out : call->in;
        int given = side ? call->num_out : call->num_in, i = 0;
        operand o;
        for (; next_operand(&s, &o); i++) {
            bool present = i < given && (tensors[i].rank > 0 || tensors[i].data);
            AM_CHECK(present || o.optional, AM_ERR_SHAPE, "kernel %s: operand %.*s is missing", op,
                     o.name_len, o.name);
            if (present) AM_TRY(check_operand(&tensors[i], op, &o, real, dims));
        }
        AM_CHECK(given <= i, AM_ERR_SHAPE, "kernel %s: %d %s operands given, it takes %d", op, given,
                 side ? "output" : "input", i);
        for (; *s == '+' || *s == '>' || *s == ' '; s++) may_accumulate |= *s == '+';
    }
    AM_CHECK(may_accumulate || !call->accumulate, AM_ERR_INTERNAL, "kernel %s cannot add into its output",
             op);
    AM_CHECK(call->threads >= 1, AM_ERR_INTERNAL, "kernel %s: called with %d threads", op, call->threads);
done:
    return st;
}
