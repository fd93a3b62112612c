/* tokenizer, regexes: compile (after tokenizer_onig.c has put Oniguruma's syntax into PCRE2's) and find all
 * matches. A pattern and its machine code are constant after compilation; what matching writes lies in the
 * scratch's matcher. */
#include "hf/tokenizer_internal.h"

#include <string.h>

/* machine stack of the compiled patterns: a long run of white space backtracks deeply in `\s+(?!\S)` */
enum { JIT_STACK_START = 64 * 1024, JIT_STACK_MAX = 64 * 1024 * 1024, MATCH_LIMIT = 200 * 1000 * 1000 };

am_status am_tok_matcher_init(am_tok_matcher *m)
{
    am_status st = AM_OK;
    *m = (am_tok_matcher){0};
    m->data = pcre2_match_data_create(1, NULL);
    m->context = pcre2_match_context_create(NULL);
    m->stack = pcre2_jit_stack_create(JIT_STACK_START, JIT_STACK_MAX, NULL);
    AM_CHECK(m->data != NULL && m->context != NULL && m->stack != NULL, AM_ERR_MEMORY,
             "the host refused memory for the regex engine");
    pcre2_set_match_limit(m->context, MATCH_LIMIT);
    pcre2_jit_stack_assign(m->context, NULL, m->stack);
done:
    if (st != AM_OK) am_tok_matcher_release(m);
    return st;
}

void am_tok_matcher_release(am_tok_matcher *m)
{
    if (m->data != NULL) pcre2_match_data_free(m->data);
    if (m->context != NULL) pcre2_match_context_free(m->context);
    if (m->stack != NULL) pcre2_jit_stack_free(m->stack);
    *m = (am_tok_matcher){0};
}

am_status am_tok_regex_compile(const char *pattern, size_t n, bool literal, const char *where,
                               am_tok_regex *out)
{
    am_status st = AM_OK;
    am_str text = {0};
    int code = 0;
    size_t at = 0;
    uint32_t flags = PCRE2_UTF;
    pcre2_compile_context *context = pcre2_compile_context_create(NULL);
    *out = (am_tok_regex){0};
    AM_CHECK(context != NULL, AM_ERR_MEMORY, "the host refused memory for the regex engine");
    /* Ruby's syntax, which the library uses: "." stops at LF alone; ^ and $ match at every line */
    pcre2_set_newline(context, PCRE2_NEWLINE_LF);
    if (literal) {
        flags |= PCRE2_LITERAL;
        AM_TRY(am_str_append(&text, pattern, n));
        AM_TRY(am_calloc(n + 1, 1, &out->literal));
        memcpy(out->literal, pattern, n);
        out->literal_len = n;
    } else {
        flags |= PCRE2_UCP | PCRE2_MULTILINE | PCRE2_NEVER_BACKSLASH_C;
        AM_TRY(am_tok_regex_translate(pattern, n, where, &text));
        AM_TRY(am_tok_pattern_compile(pattern, n, &out->pattern));
    }
    out->code = pcre2_compile((PCRE2_SPTR)text.s, text.len, flags, &code, &at, context);
    if (out->code == NULL) {
        PCRE2_UCHAR why[160] = {0};
        pcre2_get_error_message(code, why, sizeof why);
        AM_FAIL(AM_ERR_MODEL,
                "%s: the regular expression \"%.*s\" cannot be compiled: %s (byte %zu of \"%s\")", where,
                (int)n, pattern, (const char *)why, at, text.s);
    }
    (void)pcre2_jit_compile(out->code,
                            PCRE2_JIT_COMPLETE); /* without a JIT the interpreter gives the same matches */
done:
    if (context != NULL) pcre2_compile_context_free(context);
    am_str_release(&text);
    return st;
}

void am_tok_regex_release(am_tok_regex *re)
{
    if (re->code != NULL) pcre2_code_free(re->code);
    re->code = NULL;
    am_tok_pattern_free(&re->pattern);
    am_free(&re->literal);
}

am_status am_tok_regex_find_by_engine(const am_tok_regex *re, am_tok_matcher *m, const char *s, size_t n,
                                am_spans *out)
{
    am_status st = AM_OK;
    size_t pos = 0, last_end = SIZE_MAX;
    const PCRE2_SIZE *at = pcre2_get_ovector_pointer(m->data);
    while (pos <= n) {
        int rc = pcre2_match(re->code, (PCRE2_SPTR)s, n, pos, PCRE2_NO_UTF_CHECK, m->data, m->context);
        if (rc == PCRE2_ERROR_NOMATCH) break;
        if (rc < 0) {
            PCRE2_UCHAR why[160] = {0};
            pcre2_get_error_message(rc, why, sizeof why);
            AM_FAIL(AM_ERR_DATA, "the tokenizer's regular expression gives up on %zu bytes of text: %s", n,
                    (const char *)why);
        }
        if (at[0] >= at[1] &&
            at[1] == last_end) { /* an empty match right behind a match: go on one character later */
            if (pos >= n) break;
            pos = at[1] + am_tok_utf8_len((unsigned char)s[at[1] < n ? at[1] : n - 1]);
            last_end = SIZE_MAX;
            continue;
        }
        AM_TRY(am_tok_spans_push(out, at[0], at[1]));
        pos = last_end = at[1];
    }
done:
    return st;
}

static am_status find_literal(const am_tok_regex *re, const char *s, size_t n, am_spans *out)
{
    am_status st = AM_OK;
    const char *p = s, *end = s + n;
    while ((p = memmem(p, (size_t)(end - p), re->literal, re->literal_len)) != NULL) {
        AM_TRY(am_tok_spans_push(out, (size_t)(p - s), (size_t)(p - s) + re->literal_len));
        p += re->literal_len;
    }
done:
    return st;
}

am_status am_tok_regex_find_all(const am_tok_regex *re, am_tok_matcher *m, const char *s, size_t n,
                                am_spans *out)
{
    am_status st = AM_OK;
    if (re->literal != NULL) return find_literal(re, s, n, out);
    if (re->pattern == NULL || m->engine_only) return am_tok_regex_find_by_engine(re, m, s, n, out);
    for (size_t i = 0; i < n;) {
        size_t len = am_tok_pattern_match(re->pattern, s + i, n - i);
        if (len > 0) AM_TRY(am_tok_spans_push(out, i, i + len));
        i += len > 0 ? len : am_tok_utf8_len((unsigned char)s[i]);
    }
done:
    return st;
}
