/* card_lex: the text of a card becomes tokens that know their line and column.
 * Blanks and comments vanish.  A logical line ends in a NEWLINE token; while a bracket is open, ends of lines
 * are blanks. A dotted path with its braces is one token (card_expr takes it apart); after `family`, `like`,
 * `use` and `ignore` at the start of a line the rest of the line is words, since tensor patterns are not
 * expressions. */
#include "graph/card_internal.h"

#include <ctype.h>
#include <string.h>

typedef struct lexer {
    card_arena *arena;
    card_source *src;
    size_t at, line_start;
    int line, indent;
    bool fresh, words; /* nothing yet on this logical line; the rest of it is words */
    card_list open;    /* tokens of open brackets */
    size_t cap;
    card_token *token; /* heap while it grows */
} lexer;

static card_pos here(const lexer *l, size_t at)
{
    return (card_pos){l->src->file, l->line, (int)(at - l->line_start) + 1};
}

static char peek(const lexer *l, size_t ahead)
{
    return l->at + ahead < l->src->len ? l->src->text[l->at + ahead] : '\0';
}

static bool is_word(char c)
{
    return isalnum((unsigned char)c) || c == '_';
}
static bool starts_name(char c)
{
    return isalpha((unsigned char)c) || c == '_';
}

static am_status add(lexer *l, card_token_kind kind, size_t begin, size_t end, size_t text_begin,
                     size_t text_end)
{
    am_status st = AM_OK;
    card_token *t;
    AM_TRY(am_grow(&l->token, &l->cap, (size_t)l->src->num_tokens + 1, sizeof *l->token));
    t = &l->token[l->src->num_tokens];
    *t = (card_token){.kind = kind, .pos = here(l, begin), .indent = l->indent, .begin = begin, .end = end};
    AM_TRY(card_strndup(l->arena, l->src->text + text_begin, text_end - text_begin, &t->text));
    l->src->num_tokens++;
    l->fresh = false;
done:
    return st;
}

/* ".a", "a.b.{i}.0.c": names, digits and braces joined by dots. */
static am_status lex_path(lexer *l)
{
    am_status st = AM_OK;
    const char *s = l->src->text;
    size_t begin = l->at, p = l->at, n = l->src->len;
    bool first = s[p] != '.';
    for (;;) {
        if (!first) {
            if (!(p + 1 < n && s[p] == '.' && (is_word(s[p + 1]) || s[p + 1] == '{'))) break;
            p++;
        }
        first = false;
        if (s[p] == '{') {
            size_t open = p;
            while (p < n && s[p] != '}' && s[p] != '\n') p++;
            CARD_CHECK(p < n && s[p] == '}', here(l, open), "this { is never closed on its line");
            p++;
        }
        while (p < n && is_word(s[p])) p++;
    }
    bool word_line = l->fresh;
    AM_TRY(add(l, CARD_T_PATH, begin, p, begin, p));
    l->at = p;
    const char *t = l->token[l->src->num_tokens - 1].text;
    if (word_line && (strcmp(t, "family") == 0 || strcmp(t, "like") == 0 || strcmp(t, "use") == 0 ||
                      strcmp(t, "ignore") == 0))
        l->words = true;
done:
    return st;
}

static am_status lex_number(lexer *l)
{
    am_status st = AM_OK;
    const char *s = l->src->text;
    size_t p = l->at, n = l->src->len;
    while (p < n && isdigit((unsigned char)s[p])) p++;
    if (p + 1 < n && s[p] == '.' && isdigit((unsigned char)s[p + 1])) {
        p++;
        while (p < n && isdigit((unsigned char)s[p])) p++;
    }
    if (p < n && s[p] == 'e') {
        size_t q = p + 1;
        if (q < n && (s[q] == '+' || s[q] == '-')) q++;
        if (q < n && isdigit((unsigned char)s[q])) {
            while (q < n && isdigit((unsigned char)s[q])) q++;
            p = q;
        }
    }
    CARD_CHECK(p >= n || !is_word(s[p]), here(l, l->at), "`%.*s` is neither a number nor a name",
               (int)am_min_i64(20, (int64_t)(p + 1 - l->at)), s + l->at);
    AM_TRY(add(l, CARD_T_NUMBER, l->at, p, l->at, p));
    l->at = p;
done:
    return st;
}

static am_status lex_string(lexer *l)
{
    am_status st = AM_OK;
    size_t p = l->at + 1;
    while (p < l->src->len && l->src->text[p] != '"' && l->src->text[p] != '\n') p++;
    CARD_CHECK(p < l->src->len && l->src->text[p] == '"', here(l, l->at),
               "this string has no closing \" on its line");
    AM_TRY(add(l, CARD_T_STRING, l->at, p + 1, l->at + 1, p));
    l->at = p + 1;
done:
    return st;
}

static am_status track_bracket(lexer *l, char c)
{
    am_status st = AM_OK;
    const char *pairs = "()[]{}";
    const char *q = strchr(pairs, c);
    if (!q) goto done;
    card_token *t = &l->token[l->src->num_tokens - 1];
    if ((q - pairs) % 2 == 0) {
        card_token *copy = NULL;
        AM_TRY(card_alloc(l->arena, sizeof *copy, &copy));
        *copy = *t;
        AM_TRY(card_push(l->arena, &l->open, copy));
        goto done;
    }
    CARD_CHECK(l->open.num > 0, t->pos, "this %c closes nothing", c);
    card_token *o = l->open.at[--l->open.num];
    CARD_CHECK(o->text[0] == q[-1], t->pos, "this %c meets the %s opened at %d:%d", c, o->text, o->pos.line,
               o->pos.column);
done:
    return st;
}

static am_status lex_operator(lexer *l)
{
    static const char *const ops[] = {"==", "!=", "<=", ">=", "**", "//", "^T"};
    am_status st = AM_OK;
    size_t n = 1;
    char c = peek(l, 0);
    for (size_t i = 0; i < sizeof ops / sizeof *ops; i++)
        if (c == ops[i][0] && peek(l, 1) == ops[i][1]) n = 2;
    if (n == 1 && (c == '\0' || !strchr("-+*/%()[]{},:=<>|@?", c))) {
        if (isprint((unsigned char)c)) CARD_FAIL(here(l, l->at), "`%c` means nothing in a card", c);
        CARD_FAIL(here(l, l->at), "a character (byte 0x%02x) that means nothing in a card", (unsigned char)c);
    }
    AM_TRY(add(l, CARD_T_OP, l->at, l->at + n, l->at, l->at + n));
    l->at += n;
    if (n == 1) AM_TRY(track_bracket(l, c));
done:
    return st;
}

static am_status lex_word(lexer *l)
{
    size_t p = l->at;
    while (p < l->src->len && !strchr(" \t\r\n,#", l->src->text[p])) p++;
    am_status st = add(l, CARD_T_WORD, l->at, p, l->at, p);
    l->at = p;
    return st;
}

static am_status end_line(lexer *l)
{
    am_status st = AM_OK;
    if (!l->fresh && l->open.num == 0) {
        AM_TRY(add(l, CARD_T_NEWLINE, l->at, l->at, l->at, l->at));
        l->fresh = true;
        l->words = false;
    }
done:
    return st;
}

/* Blanks up to the first token of a logical line are its indentation. */
static am_status skip_blank(lexer *l, bool *end)
{
    am_status st = AM_OK;
    for (;; l->at++) {
        char c = peek(l, 0);
        if (l->at >= l->src->len) {
            AM_TRY(end_line(l));
            *end = true;
            goto done;
        }
        if (c == '#') {
            while (l->at + 1 < l->src->len && l->src->text[l->at + 1] != '\n') l->at++;
        } else if (c == '\n') {
            AM_TRY(end_line(l));
            l->line++;
            l->line_start = l->at + 1;
        } else if (c == '\t' && l->fresh && l->open.num == 0) {
            CARD_FAIL(here(l, l->at), "a tab: indent cards with blanks");
        } else if (!(c == ' ' || c == '\t' || c == '\r' || (c == ',' && l->words))) {
            break;
        }
    }
    if (l->fresh && l->open.num == 0) l->indent = (int)(l->at - l->line_start);
done:
    return st;
}

static am_status lex_all(lexer *l)
{
    am_status st = AM_OK;
    bool end = false;
    for (;;) {
        AM_TRY(skip_blank(l, &end));
        if (end) break;
        char c = peek(l, 0);
        if (l->words)
            AM_TRY(lex_word(l));
        else if (starts_name(c) || (c == '.' && (starts_name(peek(l, 1)) || peek(l, 1) == '{')))
            AM_TRY(lex_path(l));
        else if (isdigit((unsigned char)c))
            AM_TRY(lex_number(l));
        else if (c == '"')
            AM_TRY(lex_string(l));
        else
            AM_TRY(lex_operator(l));
    }
    if (l->open.num > 0) {
        const card_token *o = l->open.at[l->open.num - 1];
        CARD_FAIL(o->pos, "this %s is never closed", o->text);
    }
    l->indent = 0;
    AM_TRY(add(l, CARD_T_END, l->at, l->at, l->at, l->at));
done:
    return st;
}

am_status card_lex(card_arena *a, const char *file, const char *text, size_t len, card_source *out)
{
    am_status st = AM_OK;
    *out = (card_source){.file = file, .text = text, .len = len};
    lexer l = {.arena = a, .src = out, .line = 1, .fresh = true};
    AM_CHECK(len < 1u << 20, AM_ERR_CARD, "%s: a card of %zu bytes is not a card", file, len);
    AM_TRY(lex_all(&l));
    AM_TRY(card_alloc(a, (size_t)out->num_tokens * sizeof *out->token, &out->token));
    memcpy(out->token, l.token, (size_t)out->num_tokens * sizeof *out->token);
done:
    am_free(&l.token);
    return st;
}
